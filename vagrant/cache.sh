#!/bin/bash
# Keeps on the laptop what this VM fetched and built, so that the next one needs no network for it. Runs in the VM, as
# root, with apt's and Docker's own archives.
#
# Usage: cache.sh keep FOLDER BASE-IMAGE    before the VM is destroyed: writes both archives, unless nothing is new
#        cache.sh restore FOLDER            in a new VM: gives apt the packages, and lists in /var/cache/users-cache what
#                                           need not be fetched: the word apt, and the names of images
#        cache.sh load FOLDER               gives Docker the images that are listed, once
#
# FOLDER/packages.tar has the distribution's packages with apt's lists, FOLDER/images.tar the services' images, as Docker
# saves them: compressing them here would make it need four times as long to read them. Beside each, .sha256 has its
# checksum and, as comments, the system that it is for and its contents.
set -euo pipefail

action=$1 folder=$2 base=${3:-}
[ -d "$folder" ] || { echo "There is no folder $folder." >&2; exit 1; }
packages=$folder/packages.tar images=$folder/images.tar
days=7    # after which the package lists are renewed, where the network is there

eval "$(apt-config shell root Dir)"    # /
cd "$root"
list=var/cache/users-cache
. etc/os-release
system="$ID ${VERSION_ID:-} $(dpkg --print-architecture)"

store() { # ARCHIVE CONTENTS COMMAND...
    local about
    about=$(sed 's/^/# /' <<< "$system"$'\n'"$2")
    [ ! -e "$1" ] || [ "$(grep '^#' "$1.sha256" 2> /dev/null)" != "$about" ] || return 0
    "${@:3}" > "$1.part" || {
        rm "$1.part"
        echo "${1##*/} could not be written; its disk has $(df --human-readable --output=avail "$folder" | tail -n 1) free" >&2
        return 1
    }
    mv "$1.part" "$1"
    { echo "$about"; sha256sum < "$1"; } > "$1.sha256.part"
    mv "$1.sha256.part" "$1.sha256"
    echo "${1##*/} of the cache is new: $(du --apparent-size --block-size MB "$1" | cut -f 1)."
}

# Whether an archive is there, whole, and for this system; one that is not is removed.
usable() { # ARCHIVE
    local why as_it_is
    [ -e "$1" ] || return 1
    # An emulated CPU reads ten seconds for a checksum: once is enough, as long as the file is as it was.
    as_it_is=$(stat --format '%n %s %y' "$1")
    ! grep -qsxF "$as_it_is" run/users-cache-whole || return 0
    if [ "$(sha256sum < "$1")" != "$(grep -v '^#' "$1.sha256" 2> /dev/null)" ]; then
        why="is damaged"
    elif [ "$(head -n 1 "$1.sha256")" != "# $system" ]; then
        why="is not of this system, $system"
    else
        echo "$as_it_is" >> run/users-cache-whole
        return 0
    fi
    rm -f "$1" "$1.sha256"
    echo "${1##*/} of the cache $why: it was removed, and what it held is fetched again."
    return 1
}

contents() { # ARCHIVE
    sed -n '2,$ s/^# //p' "$1.sha256"
}

keep() {
    local files names image ids=''
    # Where no service runs, the next VM would lack something, and not know it.
    names=$(docker ps --filter network=users --format '{{.Image}}' | sort -u)
    [ -n "$names" ] || { echo "No service runs in this VM." >&2; return 1; }

    files=$(find var/cache/apt/archives var/lib/apt/lists -maxdepth 1 -type f \
        '(' -name '*.deb' -o -name '*Release*' -o -name '*Packages*' ')' -printf '%p %s %TF %TH:%TM\n' | sort)
    if grep -q '\.deb ' <<< "$files"; then
        store "$packages" "$files" tar --create $(cut -d ' ' -f 1 <<< "$files")
    fi

    docker image inspect "$base" > /dev/null 2>&1 && names+=" $base"
    for image in $names; do
        ids+="$image $(docker image inspect --format '{{.Id}}' "$image")"$'\n'
    done
    store "$images" "${ids%$'\n'}" docker save $names
}

restore() {
    local names missing
    : > $list
    usable "$images" &    # on the VM's other CPU
    if usable "$packages"; then
        tar --extract --file "$packages"
        if [ -n "$(find "$packages" -mtime +"$days")" ] &&
            ! apt-get update -qq --error-on=any -o Acquire::Retries=0 > /dev/null 2>&1; then
            echo "The cache's package lists are older than $days days and could not be renewed: they serve as they are."
        fi
        names=$(contents "$packages" | sed -n 's,.*/\([^_]*\)_.*\.deb .*,\1,p')
        # With --print-uris, apt lists what it would have to fetch.
        if missing=$(apt-get install -qq --yes --no-install-recommends --print-uris $names) && [ -z "$missing" ]; then
            echo apt >> $list
        fi
    fi
    if wait $!; then
        contents "$images" | cut -d ' ' -f 1 >> $list
    fi
    [ ! -s $list ] || echo "Taken from the cache: $(sed 's/^apt$/packages/' $list | paste -s -d ' ')."
}

load() {
    grep -qsvx apt $list || return 0
    if usable "$images"; then
        docker load --quiet --input "$images"
        sync    # Docker does not, and a power cut would leave empty files
    fi
    sed -i '/^apt$/!d' $list
}

case $action in
    keep | restore | load) "$action" ;;
    *) echo "'$action' is no action: say keep, restore or load." >&2; exit 2 ;;
esac
