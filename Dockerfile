# The operator as one static binary in an empty image.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static glibc instead of musl, because its allocator and resolver are the ones that are tested and measured outside
# of the image too. Debian's glibc has DNS and /etc/hosts built in, so the empty image needs no name service
# libraries. --target keeps the flag away from build scripts and macros.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    host=$(rustc --print host-tuple) && \
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --profile image --locked --bin astro-token-operator --target "$host" && \
    cp "target/$host/image/astro-token-operator" /

FROM scratch
# The operator does not start without certificate authorities.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /astro-token-operator /
USER 65532:65532
ENTRYPOINT ["/astro-token-operator"]
CMD ["run"]
