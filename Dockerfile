# The digest of the index for all platforms. CONTRIBUTING.md says how to take a newer one.
FROM python:3.13-slim@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6 AS python
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1


FROM python AS build
WORKDIR /src
COPY requirements.lock requirements-c2pa.lock requirements-build.lock ./
# requirements.lock holds what limner[otel] needs too, so that LIMNER_TRACES works. For signed images (limner[c2pa], 40 MB
# more) build with --build-arg EXTRA=-c2pa.
ARG EXTRA=
# The locks list everything, so nothing is resolved (--no-deps). Wheels only: this stage has no compiler either, and a missing wheel shall fail here and not at run time.
RUN python -m venv --without-pip /opt/limner \
    && pip --python /opt/limner/bin/python install --no-deps --require-hashes --only-binary :all: -r requirements${EXTRA}.lock \
    && pip install --no-deps --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/limner/bin/python install --no-deps --no-index dist/limner-*.whl \
    && pip --python /opt/limner/bin/python check


FROM python
LABEL org.opencontainers.image.title="limner" \
      org.opencontainers.image.description="The OpenAI Images API in front of chat models that generate images" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
# Numeric, so that Kubernetes can see that it is not root. A folder mounted over the state belongs to 10001 as well.
RUN install --directory --mode=0700 --owner=10001 --group=10001 /var/lib/limner /var/lib/limner/images /var/lib/limner/spool
COPY --from=build /opt/limner /opt/limner
ENV PATH=/opt/limner/bin:$PATH \
    LIMNER_HOST=0.0.0.0 \
    LIMNER_PORT=8000 \
    LIMNER_IMAGE_STORE=disk:///var/lib/limner/images \
    LIMNER_SPOOL_DIR=/var/lib/limner/spool \
    MALLOC_TRIM_THRESHOLD_=67108864 \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TOP_PAD_=1048576 \
    PYTHONMALLOC=malloc
# PYTHONMALLOC: Python's own allocator would not give back what a crowd has left behind.
# MALLOC_: by default glibc requests the buffers of each image from the kernel again, a fifth of the CPU time of an image.
USER 10001:10001
WORKDIR /var/lib/limner
VOLUME /var/lib/limner
EXPOSE 8000
# http.client ignores proxy variables, which may be set in a container.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['LIMNER_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["limner"]
CMD ["serve"]
