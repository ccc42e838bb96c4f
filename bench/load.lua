-- What wrk asks for, and how it reports. Arguments: "post" FIRST_ID | "get" ROWS | "page" | "list"
local what, number, body = nil, nil, nil

function init(arguments)
  what, number = arguments[1], tonumber(arguments[2])
  math.randomseed(1)
end

function request()
  if what == "post" then
    number = number + 1
    body = string.format('{"id":%d,"name":"Ana Maria %d"}', number, number)
    return wrk.format("POST", "/users", {["Content-Type"] = "application/json"}, body)
  elseif what == "get" then
    return wrk.format("GET", "/users/" .. math.random(number))
  end
  return wrk.format("GET", what == "list" and "/" or "/users")
end

function done(summary, latency, requests)
  local failed = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, failed.status,
    failed.connect + failed.read + failed.write + failed.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
