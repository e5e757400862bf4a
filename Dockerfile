# The page in a container; --build-arg DEVICE=cuda: for NVIDIA cards. How it is run and was tried: docs/container.md
FROM python:3.12-slim
ARG DEVICE=cpu

# Triton compiles what starts its kernels on the machine that runs them. Debian has one version of a package at a time.
# hadolint ignore=DL3008
RUN case "$DEVICE" in \
        cpu) ;; \
        cuda) apt-get update \
            && apt-get install --yes --no-install-recommends gcc libc6-dev \
            && rm -rf /var/lib/apt/lists/* ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE." >&2; exit 1 ;; \
    esac

# Uid 1000 is also the one that a Docker Space runs as. The folder is made and owned before VOLUME: what a later layer
# did to it would be dropped.
RUN useradd --create-home --uid 1000 lens \
    && install --directory --owner=lens --group=lens /workspace
VOLUME /workspace
WORKDIR /app

# PyPI has torch for Linux with CUDA alone: 4.5 GB that no CPU uses. The builds without are on PyTorch's own index and
# nowhere else, as 2.14.1+cpu, which pip takes before PyPI's 2.14.1. Where it can't reach that index pip goes on with
# PyPI's, so what came is looked at. Before the code: a change of it then fetches nothing.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt .
RUN --mount=type=cache,target=/tmp/.cache/pip \
    if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"; fi \
    && pip install --cache-dir /tmp/.cache/pip -r requirements.txt \
    && if [ "$DEVICE" = cpu ]; then \
        python -c "import sys, torch; sys.exit(torch.version.cuda and 'This torch has CUDA: is $TORCH_INDEX reached?')"; \
    fi

# What .dockerignore lets through. It belongs to root: the page can't change its own code.
COPY . .
USER 1000

# PYTHONUNBUFFERED: the log of a container is a pipe, and what was said must be in it.
# LORA_LENS_STOP_RUNS: `docker stop` saves what trains, and the next start goes on with it.
# HF_HOME: what was fetched from the Hub outlives the container, as runs do.
ENV PYTHONUNBUFFERED=1 \
    LORA_LENS_STOP_RUNS=1 \
    LORA_LENS_WORKSPACE=/workspace \
    HF_HOME=/workspace/huggingface \
    PORT=7860
EXPOSE 7860

# The smallest answer there is, which needs no login. Not by urllib, which would ask a proxy that the environment names.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["python", "-I", "-S", "-c", "\
import http.client, os, sys; \
page = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=8); \
page.request('GET', '/robots.txt'); \
sys.exit(page.getresponse().status != 200)"]
CMD ["python", "app.py", "--host", "0.0.0.0"]
