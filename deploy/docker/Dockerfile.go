# A node with the go command and git, which fetches from repositories, too, and takes
# its defaults from go env.
#
#   docker build -f deploy/docker/Dockerfile.go -t meshproxy:go .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/meshproxy ./cmd/meshproxy

FROM golang:1.26
COPY --from=build /out/meshproxy /usr/bin/meshproxy
RUN useradd --uid 65532 --create-home meshproxy && mkdir /data && chown 65532:65532 /data
USER 65532:65532
ENV MESHPROXY_DATA=/data MESHPROXY_LISTEN=0.0.0.0:3000 GOTOOLCHAIN=local
VOLUME /data
EXPOSE 3000 4001/tcp 4001/udp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/meshproxy"]
CMD ["serve", "--p2p", "/ip4/0.0.0.0/tcp/4001", "--p2p", "/ip4/0.0.0.0/udp/4001/quic-v1"]
