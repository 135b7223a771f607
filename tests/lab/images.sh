# shellcheck shell=bash
# Base images made from this machine's own Debian packages, without any registry in reach, pushed to the lab's registry.
# Sourced by up.sh. Same inputs, same bytes: layers are kept in the cache under a key made of what goes in.

# name:tag of each; reachable as $REGISTRY/NAME:TAG.
BASE_IMAGES=(busybox:1 redis:7)

images_push() {
  local cache image
  cache=$LAB_CACHE/$(images_key)
  [[ -d $cache ]] || images_build "$cache"
  for image in "${BASE_IMAGES[@]}"; do
    registry_put_image "$image" "$cache"
  done
}

images_key() {
  cat "$(type -P busybox)" "$(type -P redis-server)" "$LAB_SCRIPTS/images.sh" | sha256sum | cut -c1-16
}

images_build() {
  local cache=$1 from=$EPOCHREALTIME work
  mkdir -p "$LAB_CACHE"
  work=$(mktemp -d "$LAB_CACHE/new.XXXXXX")
  mkdir "$work/busybox" "$work/redis"
  busybox_tree "$work/busybox"
  redis_tree "$work/redis"
  layer_pack "$work" busybox
  layer_pack "$work" redis
  config_write "$work" busybox:1 '{"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]}' busybox
  config_write "$work" redis:7 '{
    "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/data", "Volumes": {"/data": {}},
    "ExposedPorts": {"6379/tcp": {}}, "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["redis-server"]}' busybox redis
  rm -r "$work/busybox" "$work/redis"
  mv -T "$work" "$cache" 2>/dev/null || rm -r "$work" # another lab was quicker
  say "base images made in $(since "$from")"
}

busybox_tree() {
  local to=$1 applet
  mkdir -p "$to"/{bin,sbin,usr/bin,usr/sbin,etc,dev,proc,sys,root,var,tmp}
  chmod 1777 "$to/tmp"
  ln -s /run "$to/var/run"
  mkdir "$to/run"
  cp "$(type -P busybox)" "$to/bin/busybox"
  for applet in $(busybox --list | grep -vx busybox); do ln -s busybox "$to/bin/$applet"; done
  printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'redis:x:999:999:redis:/data:/bin/sh' \
    'nobody:x:65534:65534:nobody:/:/bin/false' >"$to/etc/passwd"
  printf '%s\n' 'root:x:0:' 'redis:x:999:' 'nogroup:x:65534:' >"$to/etc/group"
}

# Behaves as the public image does: arguments that are options or a file go to redis-server, and root becomes redis.
redis_tree() {
  local to=$1 library
  mkdir -p "$to"/usr/{bin,local/bin} "$to/data"
  cp -L "$(type -P redis-server)" "$(type -P redis-cli)" "$to/usr/bin/"
  while read -r library; do
    mkdir -p "$to$(dirname "$library")"
    cp -L "$library" "$to$library"
  done < <(ldd "$(type -P redis-server)" "$(type -P redis-cli)" | grep -oE '/[^ ]+\.so[^ ]*' | sort -u)
  # A merged /usr: libraries found under /lib stay there, the tree has both as real folders.
  chown 999:999 "$to/data"
  cat >"$to/usr/bin/docker-entrypoint.sh" <<'SH'
#!/bin/sh
set -e
case ${1:-} in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "${1:-}" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis {} +
  shift
  # The public image is built with protected mode off; here that is said unless the configuration says otherwise.
  case ${1:-} in
    *.conf) grep -qs '^ *protected-mode' "$1" || set -- "$@" --protected-mode no ;;
    *) set -- --protected-mode no "$@" ;;
  esac
  exec start-stop-daemon -S -c redis:redis -x /usr/bin/redis-server -- "$@"
fi
exec "$@"
SH
  chmod 755 "$to/usr/bin/docker-entrypoint.sh"
  rmdir "$to/usr/local/bin" "$to/usr/local"
}

# WORK/TREE → WORK/TREE.tar.gz, with the digest of the packed bytes and of the plain ones beside it.
layer_pack() {
  local work=$1 tree=$2
  tar -C "$work/$tree" --sort=name --mtime=@0 --owner=+0 --group=+0 --numeric-owner -cf "$work/$tree.tar" \
    --exclude=./data .
  [[ ! -d $work/$tree/data ]] || tar -C "$work/$tree" --mtime=@0 --numeric-owner -rf "$work/$tree.tar" ./data
  sha256sum <"$work/$tree.tar" | cut -d' ' -f1 >"$work/$tree.plain"
  gzip -n -1 <"$work/$tree.tar" >"$work/$tree.tar.gz"
  sha256sum <"$work/$tree.tar.gz" | cut -d' ' -f1 >"$work/$tree.packed"
  rm "$work/$tree.tar"
}

# config_write WORK NAME:TAG CONFIG LAYER…: the image's configuration and its manifest (Docker's schema 2).
config_write() {
  local work=$1 image=$2 config=$3 layer plain=()
  shift 3
  for layer; do plain+=("$(cat "$work/$layer.plain")"); done
  jq -cn --argjson config "$config" --arg arch "$(dpkg --print-architecture)" \
    '{architecture: $arch, os: "linux", created: "1970-01-01T00:00:00Z", config: $config,
      rootfs: {type: "layers", diff_ids: $ARGS.positional | map("sha256:" + .)}}' \
    --args "${plain[@]}" | tr -d '\n' >"$work/$image.config"
  local layers='[]'
  for layer; do
    layers=$(jq -c --arg digest "sha256:$(cat "$work/$layer.packed")" \
      --argjson size "$(stat -c %s "$work/$layer.tar.gz")" \
      '. + [{mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", size: $size, digest: $digest}]' <<<"$layers")
  done
  jq -cn --argjson layers "$layers" --argjson size "$(stat -c %s "$work/$image.config")" \
    --arg digest "sha256:$(sha256sum <"$work/$image.config" | cut -d' ' -f1)" \
    '{schemaVersion: 2, mediaType: "application/vnd.docker.distribution.manifest.v2+json",
      config: {mediaType: "application/vnd.docker.container.image.v1+json", size: $size, digest: $digest},
      layers: $layers}' | tr -d '\n' >"$work/$image.manifest"
  printf '%s\n' "$@" >"$work/$image.layers"
}

registry_put_image() {
  local image=$1 cache=$2 layer name=${1%%:*} tag=${1#*:}
  while read -r layer; do
    registry_put_blob "$name" "$cache/$layer.tar.gz"
  done <"$cache/$image.layers"
  registry_put_blob "$name" "$cache/$image.config"
  registry_curl -X PUT -H 'Content-Type: application/vnd.docker.distribution.manifest.v2+json' \
    --data-binary @"$cache/$image.manifest" "http://$REGISTRY/v2/$name/manifests/$tag"
}

registry_put_blob() {
  local name=$1 file=$2 digest location
  digest=sha256:$(sha256sum <"$file" | cut -d' ' -f1)
  curl -sf -o /dev/null --noproxy '*' -I "http://$REGISTRY/v2/$name/blobs/$digest" && return
  location=$(curl -sf --noproxy '*' -D - -o /dev/null -X POST "http://$REGISTRY/v2/$name/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  [[ -n $location ]] || die "the registry at $REGISTRY does not take uploads"
  registry_curl -X PUT -H 'Content-Type: application/octet-stream' --data-binary @"$file" "$location&digest=$digest"
}

registry_curl() { curl -sS --fail -o /dev/null --noproxy '*' "$@" || die "the registry at $REGISTRY refused an upload"; }
