# The image of schedulers that start containers. Versions are those of the project's own files, through `make setup`.
#
#   docker build -t easq-rec .                                  CUDA; the host brings the driver
#   docker build -t easq-rec:cpu --build-arg DEVICE=cpu .
#   docker build -t easq-rec:serve --build-arg DEVICE=cpu --target serve .     only `easq-rec serve`
#   docker build --build-arg UID=$(id -u) ...                   whose files in mounted directories are
#
# torch's wheels bring the CUDA libraries, so an image without them is base enough.
FROM python:3.11-slim-bookworm AS base

ARG DEVICE=cuda
ARG UID=1000

# Any version of make will do.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "$UID" easq \
    && install -d -o easq /easq

WORKDIR /easq
# A number, which Kubernetes can tell from root.
USER $UID

# What `make setup` reads, so that another line of code does not install torch again.
COPY --chown=easq Makefile pyproject.toml README.md LICENSE ./
COPY --chown=easq easq_rec/__init__.py easq_rec/
COPY --chown=easq torchx_components/__init__.py torchx_components/
RUN PIP_NO_CACHE_DIR=1 make setup DEVICE="$DEVICE"

ENV PATH=/easq/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# A package is compiled when it is exported, so this image needs no compiler.
FROM base AS serve

RUN python -m pip install -q --no-cache-dir --no-warn-conflicts -e '.[serve]'
COPY --chown=easq . .

EXPOSE 8080
ENTRYPOINT ["easq-rec", "serve", "/packages", "--host", "0.0.0.0"]

FROM base AS train

# The extra has Ray, for easq.sweep.
RUN python -m pip install -q --no-cache-dir --no-warn-conflicts -e '.[cluster]'
COPY --chown=easq . .

# What the container runtime of NVIDIA lends a container; the CPU image has no use for it and takes no harm.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

CMD ["easq-rec", "--help"]
