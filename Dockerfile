# The page in a container: docker build -t lora-lens . (how to run it: README, "In a container")
FROM python:3.12-slim

# Uid 1000 is also the one that a Docker Space runs as.
RUN useradd --create-home --uid 1000 lens
WORKDIR /app

# Before the code, so that a change of the code doesn't fetch PyTorch again.
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .

# Made and owned before VOLUME: what a later layer did to the folder would be dropped.
RUN mkdir /workspace && chown lens /workspace
VOLUME /workspace
USER lens

# PYTHONUNBUFFERED: the log of a container is a pipe, and what was said must be in it.
# LORA_LENS_STOP_RUNS: `docker stop` saves what trains, and the next start goes on with it.
ENV PYTHONUNBUFFERED=1 LORA_LENS_STOP_RUNS=1
EXPOSE 7860
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--workspace", "/workspace"]
