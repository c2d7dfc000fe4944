-- wrk script: one purchase a request, each with an id of its own, of a random one of MEMBERS members.
-- Arguments: a prefix that makes the ids of this run unique, and the number of members.
local thread_number = 0

function setup(thread)
  thread:set("number", thread_number)
  thread_number = thread_number + 1
end

function init(args)
  prefix = args[1]
  members = tonumber(args[2])
  count = 0
  math.randomseed(os.time() + number * 7919)
  today = os.date("!%Y-%m-%dT%H:%M:%SZ")
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  count = count + 1
  local body = string.format(
    '{"source":"bench","id":"%s-%d-%d","type":"purchase","member":{"external_id":"%05d"},' ..
    '"occurred_at":"%s","amount":"%d.%02d","currency":"USD","metadata":{"cds":%d}}',
    prefix, number, count, math.random(members), today, math.random(200), math.random(0, 99), math.random(9))
  return wrk.format(nil, nil, nil, body)
end

function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p95": %d, "p99": %d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
