# The sensor's image (default target), and the vSensor's: podman build --target vsensor.
#
# Neither has a shell, a package manager or a compiler. The last stage begins from nothing and gets a Python, the
# libraries that it and our packages are linked to, and our packages; deploy/image/rootfs.py says how they are found.
# Nothing here names an architecture: built on amd64 it is amd64's, on arm64 arm64's.
#
# Must be Debian 12: its Python is 3.11, the version that pypcap's sdist builds on.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# For a build behind a proxy with a certificate of its own; pip reads it, and it stays in this stage.
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Upgraded first: the image gets its C library from here, and a base image is as old as it is.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get upgrade -y -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      binutils ca-certificates gcc libc6-dev libpcap-dev netbase python3-dev python3-venv
WORKDIR /src
COPY deploy/requirements*.txt deploy/
# Not isolated: pip would fetch what packages are built with by itself, and check no hash of that.
RUN python3.11 -m venv /opt/ossensor \
 && /opt/ossensor/bin/pip install -q --require-hashes -r deploy/requirements-build.txt \
 && /opt/ossensor/bin/pip install -q --require-hashes --no-build-isolation --use-pep517 -r deploy/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY ossensor ossensor
RUN /opt/ossensor/bin/pip install -q --no-index --no-deps --no-build-isolation .
COPY deploy/image deploy/image

FROM build AS build-vsensor
RUN /opt/ossensor/bin/pip install -q --require-hashes --no-build-isolation -r deploy/requirements-vsensor.txt \
 && /opt/ossensor/bin/pip check -q \
 && /opt/ossensor/bin/pip uninstall -q -y pip setuptools \
 && python3.11 deploy/image/rootfs.py /opt/ossensor /rootfs \
 && install -d -o 65534 -g 65534 -m 700 /rootfs/var/lib/ossensor

FROM build AS build-sensor
RUN /opt/ossensor/bin/pip check -q \
 && /opt/ossensor/bin/pip uninstall -q -y pip setuptools \
 && python3.11 deploy/image/rootfs.py /opt/ossensor /rootfs

FROM scratch AS vsensor
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ossensor vsensor" \
      org.opencontainers.image.description="The collector that ossensor ships packets to" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-vsensor /rootfs/ /
ENV PATH=/opt/ossensor/bin:/usr/bin
# A fresh volume takes the owner of what it covers, on Fargate too.
VOLUME /var/lib/ossensor
EXPOSE 8443
USER 65534:65534
ENTRYPOINT ["/opt/ossensor/bin/ossensor"]
CMD ["vsensor", "--listen", "0.0.0.0:8443", "--store", "/var/lib/ossensor"]

FROM scratch AS sensor
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ossensor" \
      org.opencontainers.image.description="Packet-forwarding network sensor" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-sensor /rootfs/ /
ENV PATH=/opt/ossensor/bin:/usr/bin
# Root, but with CAP_NET_RAW alone where it is run as deploy/ecs says: a user id of its own would have to get the
# capability from the file (which no-new-privileges forbids) or as an ambient one (which ECS cannot give).
USER 0:0
# PID 1 is the supervisor: it handles SIGTERM from its first instruction on, and reaps strangers.
ENTRYPOINT ["/opt/ossensor/bin/ossensor"]
CMD ["run"]
