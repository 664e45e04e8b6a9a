-- wrk script: POST the files listed in $BODIES in turn, as $CONTENT_TYPE; print JSON.
local bodies = {}
for path in io.lines(os.getenv("BODIES")) do
  local file = io.open(path, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local requests, last = {}, 0
function init()
  local headers = {["Content-Type"] = os.getenv("CONTENT_TYPE")}
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", wrk.path, headers, body)
  end
end
function request()
  last = last % #requests + 1
  return requests[last]
end
function done(summary, latency)
  local errors, failed = summary.errors, 0
  for _, name in ipairs({"connect", "read", "write", "status", "timeout"}) do
    failed = failed + errors[name]
  end
  print(string.format(
    '{"requests": %d, "failed": %d, "rate": %.1f, "p50": %.3f, "p99": %.3f}',
    summary.requests, failed, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
