# The balancer of the compose file: HAProxy as Debian ships it. Its configuration is mounted.
ARG RUNTIME=debian:bookworm-slim
FROM ${RUNTIME}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/*
USER haproxy
# The clean stop of HAProxy, SIGUSR1, waits for all connections to end: with MQTT that is never.
STOPSIGNAL SIGTERM
ENTRYPOINT ["haproxy", "-W", "-db", "-f"]
CMD ["/etc/haproxy/haproxy.cfg"]
