# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The caches are not part of the image, so the program is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin webhook-hub \
    && cp target/release/webhook-hub /webhook-hub

FROM debian:bookworm-slim
# The authorities that a backend's or a provider's https is checked against; nothing else is installed.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /webhook-hub /usr/local/bin/webhook-hub
# A number, so that Kubernetes' runAsNonRoot can tell.
USER 10001:10001
EXPOSE 3002 9090
# The loopback of a container is reached by nobody outside of it; publish 9090 to where metrics are collected, and nowhere else.
ENV METRICS_HOST=0.0.0.0
# The interval also bounds how long a hung hub goes unnoticed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["webhook-hub", "healthcheck"]
ENTRYPOINT ["webhook-hub"]
CMD ["serve"]
