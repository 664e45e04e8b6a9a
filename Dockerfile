# An image of the service, with only what serving needs.
#
#   docker build -t fashion .
#   docker run --read-only --tmpfs /tmp -p 9696:9696 fashion

FROM python:3.11-slim-bookworm AS build
# no pinned version: it is not in the final image, and hashes check what it installs
RUN python -m venv /opt/pipenv && /opt/pipenv/bin/pip install pipenv
# a virtual environment is copied whole; elsewhere the path depends on the Python version
ENV VIRTUAL_ENV=/opt/venv
RUN python -m venv --without-pip $VIRTUAL_ENV
WORKDIR /app
COPY Pipfile Pipfile.lock ./
ARG CATEGORIES=packages
RUN /opt/pipenv/bin/pipenv sync --categories "$CATEGORIES"
# not used by serving: the C library, tools for training, tests, type stubs
RUN cd $VIRTUAL_ENV/lib/python3*/site-packages && \
    rm -rf onnxruntime/capi/libonnxruntime.so.* \
        onnxruntime/quantization onnxruntime/tools onnxruntime/transformers && \
    find . -type d -name tests -prune -exec rm -r {} + && \
    find . -name '*.pyi' -delete
COPY . .
# compile to bytecode now: a read-only container cannot store it later
RUN rm Pipfile Pipfile.lock && python -m compileall -q . && chmod -R a+rX .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="fashion" \
      org.opencontainers.image.description="Classifies pictures by the model in it, model.bin" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
# gunicorn listens on all addresses of IPv4 and IPv6, on port PORT
ENV PATH=/opt/venv/bin:$PATH PORT=9696
EXPOSE 9696
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["python", "-c", \
    "import os, http.client as http; server = http.HTTPConnection('127.0.0.1:' + os.environ['PORT'], timeout=2); server.request('GET', '/ping'); exit(server.getresponse().status != 200)"]
ENTRYPOINT ["gunicorn", "predict:app"]
