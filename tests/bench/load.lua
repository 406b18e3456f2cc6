-- What wrk asks in `make bench-router`: LOAD says what, MIX names a file with the mixture. The last line that it prints is JSON.
local load = os.getenv("LOAD")

-- About what a browser sends: 500 bytes.
local headers = {
  ["Host"] = "matrix.example.com",
  ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
  ["Accept"] = "application/json",
  ["Accept-Language"] = "en-US,en;q=0.5",
  ["Accept-Encoding"] = "gzip, deflate, br, zstd",
  ["Origin"] = "https://app.example.com",
  ["Referer"] = "https://app.example.com/",
  ["Sec-Fetch-Dest"] = "empty",
  ["Sec-Fetch-Mode"] = "cors",
  ["Sec-Fetch-Site"] = "same-site",
  ["DNT"] = "1",
  ["Connection"] = "keep-alive",
}

local function token(number)
  return string.format("Bearer syt_dXNlcl%02d_AbCdEfGhIjKlMnOpQrSt_%06d", number, number)
end

if load == "mix" then
  local requests, turn = {}, 0
  function init()
    for number = 0, 63 do
      headers["Authorization"] = token(number)
      for line in io.lines(os.getenv("MIX")) do
        local method, target, body = line:match("^(.-)\t(.-)\t(.*)$")
        local has_body = body ~= ""
        headers["Content-Type"] = has_body and "application/json" or nil
        requests[#requests + 1] = wrk.format(method, target, headers, has_body and body or nil)
      end
    end
  end
  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
else
  headers["Authorization"] = token(1)
  wrk.headers = headers
  if load == "50m-up" then
    wrk.method, wrk.path = "POST", "/_matrix/media/v3/upload"
    headers["Content-Type"] = "application/octet-stream"
    wrk.body = string.rep("\0", 50 * 1024 * 1024)
  else
    wrk.path = "/_matrix/client/v1/media/download/example.com/" .. load
  end
end

function done(summary, latency)
  local errors = 0
  for _, count in pairs(summary.errors) do
    errors = errors + count
  end
  io.write(string.format('{"requests":%d,"errors":%d,"p99":%d}\n', summary.requests, errors, latency:percentile(99)))
end
