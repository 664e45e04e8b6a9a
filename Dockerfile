# The service in a container: what serving needs and nothing else.
#
#   docker build -t fashion .
#   docker run --read-only --tmpfs /tmp -p 9696:9696 fashion

FROM python:3.11-slim-bookworm AS build
# of any version: it stays behind, and what it installs is checked by the lock's hashes
RUN python -m venv /opt/pipenv && /opt/pipenv/bin/pip install pipenv
# copied whole, for where packages lie outside of one differs from Python to Python
ENV VIRTUAL_ENV=/opt/venv
RUN python -m venv --without-pip $VIRTUAL_ENV
WORKDIR /app
COPY Pipfile Pipfile.lock ./
ARG CATEGORIES=packages
RUN /opt/pipenv/bin/pipenv sync --categories "$CATEGORIES"
# what serving never reads: a library for programs in C, tools for training, tests, types
RUN cd $VIRTUAL_ENV/lib/python3*/site-packages && \
    rm -rf onnxruntime/capi/libonnxruntime.so.* \
        onnxruntime/quantization onnxruntime/tools onnxruntime/transformers && \
    find . -type d -name tests -prune -exec rm -r {} + && \
    find . -name '*.pyi' -delete
COPY . .
# compiled here, since a read-only container cannot keep what it compiles
RUN rm Pipfile Pipfile.lock && python -m compileall -q . && chmod -R a+rX .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="fashion" \
      org.opencontainers.image.description="A picture in, one of ten classes of clothes out" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
# gunicorn listens on all addresses at PORT
ENV PATH=/opt/venv/bin:$PATH PORT=9696
EXPOSE 9696
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["python", "-c", \
    "import os, http.client as http; server = http.HTTPConnection('127.0.0.1:' + os.environ['PORT'], timeout=2); server.request('GET', '/ping'); exit(server.getresponse().status != 200)"]
ENTRYPOINT ["gunicorn", "predict:app"]
