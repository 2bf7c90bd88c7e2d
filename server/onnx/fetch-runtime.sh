#!/bin/sh
# Usage: fetch-runtime.sh DIR
#
# Puts ONNX Runtime's library and its licence texts into DIR:
#   libonnxruntime.so  libonnxruntime.LICENSE  libonnxruntime.NOTICES
# They come out of the wheel that the ONNX Runtime project publishes for
# Python, through pip and therefore through whatever index or mirror pip is set
# to. Both wheel and library are pinned by hash. If DIR has the pinned library
# already, nothing is done. It is replaced in one rename, so a reader finds the
# old library or the new one, never part of one.
set -eu

version=1.31.1
case $(uname -sm) in
"Linux x86_64")
	platform=manylinux_2_28_x86_64
	wheel=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f
	library=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3
	;;
"Linux aarch64")
	platform=manylinux_2_28_aarch64
	wheel=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3
	library=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467
	;;
*)
	platform=
	;;
esac

die() {
	echo "fetch-runtime: $*" >&2
	exit 1
}

holds() { # FILE HASH
	[ -f "$1" ] && echo "$2  $1" | sha256sum -c >/dev/null 2>&1
}

[ $# -eq 1 ] || die "usage: fetch-runtime.sh DIR"
[ -n "$platform" ] || die "no library is pinned for $(uname -sm):" \
	"install ONNX Runtime $version and set SALLYPORT_ONNXRUNTIME to its library"
dir=$1
mkdir -p "$dir"
if holds "$dir/libonnxruntime.so" "$library" &&
	[ -f "$dir/libonnxruntime.LICENSE" ] && [ -f "$dir/libonnxruntime.NOTICES" ]; then
	exit 0
fi

python=${PYTHON:-python3}
"$python" -m pip --version >/dev/null 2>&1 || die "$python with pip is needed to fetch ONNX Runtime"

tmp=$(mktemp -d "$dir/.fetch-runtime.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# The wheel is for CPython 3.11 whatever Python runs pip: only the C library in
# it is used.
echo "onnxruntime==$version --hash=sha256:$wheel" >"$tmp/requirements.txt"
"$python" -m pip download --quiet --disable-pip-version-check --no-cache-dir \
	--no-deps --only-binary=:all: --require-hashes \
	--python-version 3.11 --implementation cp --platform "$platform" \
	--dest "$tmp" --requirement "$tmp/requirements.txt" ||
	die "pip could not download onnxruntime $version for $platform (offline? then set" \
		"SALLYPORT_ONNXRUNTIME to the library of an ONNX Runtime you have)"
"$python" -m zipfile -e "$tmp"/onnxruntime-*.whl "$tmp/wheel"

found=$tmp/wheel/onnxruntime/capi/libonnxruntime.so.$version
holds "$found" "$library" || die "the library in the wheel is not the pinned one"
chmod 755 "$found"
mv "$tmp/wheel/onnxruntime/LICENSE" "$dir/libonnxruntime.LICENSE"
mv "$tmp/wheel/onnxruntime/ThirdPartyNotices.txt" "$dir/libonnxruntime.NOTICES"
mv "$found" "$dir/libonnxruntime.so"
echo "$dir/libonnxruntime.so: ONNX Runtime $version"
