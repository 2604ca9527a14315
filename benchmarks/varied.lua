-- No two requests are the same: the query string and one header field differ each time.
local count = 0

request = function()
   count = count + 1
   wrk.headers["X-Request-Id"] = string.format("%08x-%d", count * 2654435761 % 4294967296, count)
   return wrk.format("GET", "/items?page=" .. count % 97 .. "&id=" .. count)
end
