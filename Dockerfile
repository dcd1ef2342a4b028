# bootdiff in a container, with the versions that this release was tested with:
#
#   docker build -t bootdiff .
#   docker run --rm --gpus all -v "$PWD:/data" -u "$(id -u):$(id -g)" bootdiff fit mine.yaml     (without a GPU: no --gpus)
#
# TORCH_INDEX: where torch is taken from. Left out: the usual build, which computes on GPUs and on the CPU. The address of
# the CPU builds that PyTorch's page of installation names makes an image of a quarter of the size, without GPUs.
# EXTRAS: of pyproject.toml.
FROM python:3.11-slim

ARG TORCH_INDEX=""
ARG EXTRAS="data,video,tiff,audio,medical"

# What changes least comes first: torch is not installed anew for every change of the code.
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[$EXTRAS]"

# Nobody's data need root. A home that everybody may write to serves those who are given by -u.
RUN useradd --create-home bootdiff && chmod 777 /home/bootdiff
ENV HOME=/home/bootdiff OMP_WAIT_POLICY=passive
USER bootdiff
WORKDIR /data
ENTRYPOINT ["bootdiff"]
CMD ["--help"]
