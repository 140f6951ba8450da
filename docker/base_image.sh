#!/usr/bin/env bash
# base_image.sh [TAG]: a minimal Debian 12 image without a registry, by debootstrap. Root. TAG: quantd-base:bookworm.
#
# It takes this machine's Debian mirrors and apt's proxy and check settings, so that `docker build` can install packages
# wherever this machine can. Where a registry is in reach, debian:bookworm-slim does as well and this is not needed.
set -euo pipefail
tag=${1:-quantd-base:bookworm}
suite=bookworm

[ "$(id -u)" = 0 ] || { echo "base_image.sh: debootstrap needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "base_image.sh: apt-get install debootstrap" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# The Debian archives among this machine's sources, as one-line sources.
sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
  awk -v suite=$suite '$3 == "main" && ($2 == suite || $2 == suite "-updates" || $2 == suite "-security") {
    print "deb", $1, $2, $3 }' | sort -u)
mirror=$(awk -v suite=$suite '$3 == suite { print $2; exit }' <<<"$sources")
: "${mirror:=http://deb.debian.org/debian}"
: "${sources:=deb $mirror $suite main}"

echo "base_image.sh: debootstrap $suite from $mirror" >&2
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }

echo "$sources" >"$root/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$root/etc/apt/apt.conf.d/90-this-machine" || true
# What Debian's slim images leave out.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'SLIM'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
SLIM
find "$root/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$root"/usr/share/{man,info,locale}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin \
  "$root"/var/cache/apt/archives/*.deb "$root"/var/log/* "$root"/etc/machine-id
: >"$root/etc/machine-id"

tar -C "$root" --one-file-system --numeric-owner -c . |
  docker import --change 'CMD ["bash"]' --message "debootstrap minbase $suite" - "$tag" >/dev/null
echo "base_image.sh: $tag, $(docker image inspect --format '{{.Size}}' "$tag" | numfmt --to=si)B" >&2
