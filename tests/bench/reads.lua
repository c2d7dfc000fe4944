-- wrk script: the same read of a random one of MEMBERS members each time.
-- Arguments: what stands before and after the member's number in the path, and the number of members.
local thread_number = 0

function setup(thread)
  thread:set("number", thread_number)
  thread_number = thread_number + 1
end

function init(args)
  before, after = args[1], args[2]
  members = tonumber(args[3])
  math.randomseed(os.time() + number * 7919)
end

function request()
  return wrk.format("GET", string.format("%s%05d%s", before, math.random(members), after))
end

function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p95": %d, "p99": %d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
