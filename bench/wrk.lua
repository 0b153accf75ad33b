-- wrk's half of load.py. Arguments: pool file, record width, first record, records per thread, request head.
-- Each record is sent once, each thread has a slice of its own; one that runs out stops and the run is void.

local threads = {}

function setup(thread)
   thread:set("index", #threads)
   table.insert(threads, thread)
end

function init(args)
   width, left, head = tonumber(args[2]), tonumber(args[4]), args[5]
   pool = assert(io.open(args[1], "rb"))
   pool:setvbuf("full", 1048576)
   pool:seek("set", (tonumber(args[3]) + index * left) * width)
   exhausted = false
end

function request()
   if left == 0 then
      exhausted = true
      wrk.thread:stop()
      return last
   end
   left = left - 1
   last = head .. pool:read(width)
   return last
end

function done(summary, latency)
   local exhausted = false
   for _, thread in ipairs(threads) do
      exhausted = exhausted or thread:get("exhausted")
   end
   local errors = summary.errors
   print(string.format(
      '{"seconds": %f, "answers": %d, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f, "exhausted": %s}',
      summary.duration / 1e6, summary.requests, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, exhausted
   ))
end
