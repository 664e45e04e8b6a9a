"""FastAPI at its barest: the raw body in an async handler, nothing validated.

    MODEL=../../model.bin uvicorn bare_fastapi:app --workers 2 --no-access-log

Sources: https://fastapi.tiangolo.com/advanced/using-request-directly/ and
https://fastapi.tiangolo.com/advanced/response-directly/; orjson is its fastest way.
"""

import orjson
from fastapi import FastAPI, Request, Response
from network import classify

app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Classify the body."""
    found = classify(await request.body())
    return Response(orjson.dumps(found), media_type="application/json")
