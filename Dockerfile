# SelfSight on CPUs. A results folder outside the container:
#   docker build -t selfsight .
#   docker run --rm -v "$PWD/results:/study/results" selfsight run compare --limit 100
FROM python:3.12-slim
# The torch of PyPI brings CUDA's libraries. PyTorch's index of CPU builds keeps the image small:
# --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
ENV OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt /source && rm -r /source
WORKDIR /study
ENTRYPOINT ["selfsight"]
