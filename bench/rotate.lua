-- wrk script: POST the files listed in $BODIES in turn to /predict.
local bodies = {}
for path in io.lines(os.getenv("BODIES")) do
  local file = io.open(path, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local requests, turn = {}, 0
function init()
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", "/predict", {["Content-Type"] = "image/png"}, body)
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
