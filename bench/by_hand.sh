#!/bin/sh
# What the roles do, by hand, as root in a fresh VM: the floor for bench/provisioning.py.
#
# Usage: by_hand.sh install     Docker, two images, two containers
#        by_hand.sh frontend    the frontend's image and container again
# Environment: base_image, and base_archive and ca_certificate as in settings.yml.
set -eu
cd /vagrant

start() { # SERVICE PORT OPTIONS-OF-DOCKER-RUN...
    service=$1 port=$2
    shift 2
    DOCKER_BUILDKIT=1 docker build --quiet --tag "$service" --build-arg "BASE_IMAGE=$base_image" \
        ${ca_certificate:+--secret id=ca,src=/etc/ssl/certs/ca-certificates.crt} "apps/$service"
    docker rm --force "$service" 2> /dev/null
    docker run --detach --name "$service" --network by-hand --publish "$port:$port" --env "PORT=$port" "$@" "$service"
    until python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/healthz', timeout=5)"; do
        sleep 0.2
    done 2> /dev/null
}
frontend() {
    start frontend 8000 --env BACKEND_URL=http://backend:8080 --env "SECRET_KEY=$(head -c 32 /etc/machine-id)"
}

case $1 in
install)
    export DEBIAN_FRONTEND=noninteractive
    if [ -n "$ca_certificate" ]; then
        install -m 0644 "$ca_certificate" /usr/local/share/ca-certificates/company.crt
        update-ca-certificates > /dev/null
    fi
    packages="docker.io docker-buildx apparmor ca-certificates"
    apt-get -q update
    apt-cache show docker-cli > /dev/null 2>&1 && packages="$packages docker-cli"
    apt-get -qy install --no-install-recommends $packages
    [ -z "$base_archive" ] || docker import "$base_archive" "$base_image"
    docker network create by-hand
    start backend 8080 --env DATABASE_URL=sqlite:////data/users.db --user 1000:1000 \
        --mount type=bind,source=/data,target=/data
    frontend
    ;;
frontend) frontend ;;
esac
