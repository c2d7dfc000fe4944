-- wrk script: one purchase of 20 lines a request, of a random one of MEMBERS members.
-- Arguments: a prefix that makes the ids of this run unique, and the number of members.
local categories = {"music", "books", "games", "films", "coffee", "toys", "garden", "tobacco"}
local brands = {"acme", "globex", "initech", "umbrella"}

function setup(thread)
  thread:set("number", 0)
end

function init(args)
  prefix = args[1]
  members = tonumber(args[2])
  count = 0
  math.randomseed(os.time())
  today = os.date("!%Y-%m-%dT%H:%M:%SZ")
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  count = count + 1
  local items = {}
  local cents = 0
  for line = 1, 20 do
    local amount = math.random(50, 5000)
    cents = cents + amount
    items[line] = string.format(
      '{"line_id":"%d","sku":"%s-%d","category":"%s","brand":"%s","quantity":%d,"amount":"%d.%02d"}',
      line, categories[math.random(8)], math.random(999), categories[math.random(8)], brands[math.random(4)],
      math.random(3), math.floor(amount / 100), amount % 100)
  end
  local body = string.format(
    '{"source":"bench","id":"%s-%d","type":"purchase","member":{"external_id":"%05d"},' ..
    '"occurred_at":"%s","amount":"%d.%02d","currency":"USD","items":[%s]}',
    prefix, count, math.random(members), today, math.floor(cents / 100), cents % 100, table.concat(items, ","))
  return wrk.format(nil, nil, nil, body)
end

function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p95": %d, "p99": %d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
