#!/bin/sh
# Make .env for compose.yaml: .env.example with new secrets. Arguments are profiles: new-env.sh waha monitoring
set -eu
cd "$(dirname "$0")/../.."

secret() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }

profiles=
for profile; do
    case $profile in
        waha | monitoring) profiles=$profiles${profiles:+,}$profile ;;
        *) echo "new-env: no such profile: $profile (there are: waha, monitoring)" >&2 && exit 2 ;;
    esac
done
# The secrets of an .env that is there are those of the data.
[ ! -e .env ] || { echo "new-env: .env is there already, and stays as it is" >&2 && exit 1; }

umask 077
while IFS= read -r line; do
    case $line in
        COMPOSE_PROFILES=) line=$line$profiles ;;
        INGRESS_ENCRYPTION_KEYS=) line=$line$(secret 4):$(head -c 32 /dev/urandom | base64) ;;
        WAHA_API_KEY=) case $profiles in *waha*) line=$line$(secret 32) ;; esac ;;
        INGRESS_PLATFORM_KEY= | *_PASSWORD=) line=$line$(secret 32) ;;
    esac
    printf '%s\n' "$line"
done < .env.example > .env
echo "made .env; keep it where you keep secrets"
