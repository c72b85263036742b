# The operator as one static binary in an empty image.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static glibc, not musl: the allocator and resolver that are tested and measured outside of the image too. This glibc
# has DNS and /etc/hosts built in, so the empty image needs no name service libraries. --target keeps the flag away
# from build scripts and macros.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    host=$(rustc --print host-tuple) && \
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --profile image --locked --bin astro-token-operator --target "$host" && \
    cp "target/$host/image/astro-token-operator" /

FROM scratch
# Without any certificate authority the operator does not start.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /astro-token-operator /
USER 65532:65532
ENTRYPOINT ["/astro-token-operator"]
CMD ["run"]
