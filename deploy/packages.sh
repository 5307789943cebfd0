# Building for the boards: what ./dev cross, ./dev deb and ./dev release do. Read by ./dev, whose functions it uses.
#
# One compilation serves all: packages take the libraries that ./dev test (amd64) and ./dev cross (arm64) compiled and
# only link the executable again, with zig against the glibc of Debian 11 and Ubuntu 20.04.
arm=aarch64-unknown-linux-gnu
glibc=2.31 # JetPack 5 has this one, every later system a newer one
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
photos=daemon/tests/photos

# Prepares this shell for compiling for arm64 with Debian's own cross packages; `compile` is the cargo to use.
use_cross_toolchain() {
  need_to_build
  compile=cargo
  if [[ $(dpkg --print-architecture) == arm64 ]]; then return; fi
  dpkg --print-foreign-architectures | grep -qx arm64 || as_root dpkg --add-architecture arm64
  need aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static
  need_library libc6-dev-arm64-cross libsystemd-dev:arm64
  if [[ ! -d $(rustc --print target-libdir --target $arm) ]]; then
    # Debian has the standard library of other architectures as packages, for its own compiler.
    need_library rustc-web cargo-web libstd-rust-web-dev:arm64
    compile=/usr/bin/cargo
    export RUSTC=/usr/bin/rustc
    [[ -d $("$RUSTC" --print target-libdir --target $arm) ]] ||
      die "no Rust library for arm64 in Debian's packages; run 'rustup target add $arm', then this again"
  fi
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
  export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig
  export BINDGEN_EXTRA_CLANG_ARGS="--sysroot=/usr/aarch64-linux-gnu -I/usr/aarch64-linux-gnu/include"
}

# Builds for arm64 and tries the result on two emulated processors. In a shell of its own, like build_deb: the other
# toolchain's settings must not reach what is compiled next.
build_cross() (
  local kithd=$target/$arm/release/kithd precision log
  use_cross_toolchain
  "$compile" build --release --locked --target $arm -p kithd
  log=$dev/boards/instructions
  own_folder "$dev"
  for board in pi4:int8 pi5:int8 pi5:float16; do
    precision=${board#*:}
    QEMU_LOG=in_asm QEMU_LOG_FILENAME=$log on_board "${board%:*}" "$kithd" --config deploy/kithd.toml \
      --set "models.precision=$precision" eval --json --pairs $photos/pairs.csv
  done
)

# on_board pi4|pi5 PROGRAM…: runs an arm64 program on that board's processor, emulated: the first has neither SDOT nor
# half precision, the second both, as has a Jetson Orin. tract reads what there is from /proc/cpuinfo, which is this
# machine's own under qemu unless it is told otherwise.
on_board() {
  local root=$dev/boards/$1 cpu=cortex-a72 part=0xd08 features="fp asimd"
  if [[ $1 == pi5 ]]; then cpu=cortex-a76 part=0xd0b features+=" fphp asimdhp asimddp"; fi
  shift
  mkdir -p "$root/proc"
  printf 'Features\t: %s\nCPU part\t: %s\n' "$features" $part >"$root/proc/cpuinfo"
  QEMU_CPU=$cpu QEMU_LD_PREFIX=$root qemu-aarch64-static "$@"
}

# deb ARCHITECTURE: builds target/debian/kithd_VERSION-1_ARCHITECTURE.deb and checks it.
build_deb() (
  local architecture=$1 package=$target/debian/kithd_$(version)-1_$1.deb built=$target/release for_target=() runner=()
  [[ $architecture =~ ^(amd64|arm64)$ ]] || die "packages are built for amd64 and arm64, not for '$architecture'"
  need dpkg-deb:dpkg lintian:lintian readelf:binutils python3:python3
  compile=cargo
  if [[ $architecture != $(dpkg --print-architecture) ]]; then
    [[ $architecture == arm64 ]] || die "a package for amd64 is built on amd64"
    use_cross_toolchain
    for_target=(--target $arm) built=$target/$arm/release runner=(qemu-aarch64-static)
  fi
  need_cargo_tool cargo-deb 3.8.0
  need_zig
  "$compile" rustc --release --locked "${for_target[@]}" -p kithd --bin kithd -- -C linker="$(zig_linker "$architecture")"
  check_libraries "$built/kithd"
  make_package_files "$built/package" "${runner[@]}" "$built/kithd"
  make_notices "${for_target[@]}" | gzip -9n >"$built/package/third-party-licences.gz"
  "$dev/cargo/bin/cargo-deb" deb --no-build --no-strip --quiet "${for_target[@]}" -p kithd --output "$target/debian/"
  lintian --allow-root --fail-on error "$package"
  if [[ $architecture == $(dpkg --print-architecture) ]]; then try_package "$package"; fi
)

# try_package FILE: installs, upgrades, removes and purges it in a small Debian that is then thrown away.
try_package() {
  local work package=$1
  ((EUID == 0)) || { say "installing $package was not tried: that needs root"; return; }
  need mmdebstrap:mmdebstrap
  work=$(mktemp -d)
  # The previous version is this one, renumbered.
  dpkg-deb -R "$package" "$work/old"
  sed -i 's/^Version: .*/Version: 0.0.0-1/' "$work/old/DEBIAN/control"
  dpkg-deb -Zgzip -z1 -b "$work/old" "$work/old.deb" >/dev/null
  cp "$package" "$work/new.deb"
  mmdebstrap --quiet --variant=minbase --include=systemd --customize-hook="copy-in $work/old.deb $work/new.deb deploy/debian/try /" \
    --customize-hook='chroot "$1" /try /old.deb /new.deb' "$(. /etc/os-release && echo "$VERSION_CODENAME")" /dev/null
  rm -rf "$work"
}

# The version of the workspace.
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# need_cargo_tool NAME VERSION: one of cargo's own kind, in a folder of ours.
need_cargo_tool() {
  grep -qs "^\"$1 $2 " "$dev/cargo/.crates.toml" && return
  say "building $1 $2"
  own_folder "$dev"
  env -u RUSTC CARGO_TARGET_DIR="$dev/cargo/build" cargo install --quiet --locked --root "$dev/cargo" --version "$2" "$1"
}

# zig with its wrapper for cargo, from the Python Package Index.
need_zig() {
  local wheels="cargo-zigbuild==0.24.0 ziglang==0.15.2"
  [[ $(cat "$dev/zig/wheels" 2>/dev/null) != "$wheels" ]] || return 0
  own_folder "$dev"
  python3 -c 'import ensurepip' 2>/dev/null || need "no-python-venv:python3-venv"
  python3 -m venv --clear "$dev/zig"
  # shellcheck disable=SC2086 # two words
  "$dev/zig/bin/pip" install -q --disable-pip-version-check $wheels
  echo "$wheels" >"$dev/zig/wheels" # last, so that an interrupted installation is done again
}

# zig_linker ARCHITECTURE: makes a linker for executables that need no glibc newer than ours, and prints where it is.
zig_linker() {
  local machine=x86_64 linker=$dev/zig/link-$1
  if [[ $1 == arm64 ]]; then machine=aarch64; fi
  cat >"$linker" <<LINKER
#!/bin/sh
export PATH="$dev/zig/bin:\$PATH" ZIG_GLOBAL_CACHE_DIR="$dev/zig/cache" ZIG_LOCAL_CACHE_DIR="$dev/zig/cache"
exec cargo-zigbuild zig cc -- -target $machine-linux-gnu.$glibc "\$@"
LINKER
  chmod +x "$linker"
  echo "$linker"
}

# check_libraries FILE: it needs what the package's Depends says, and no more.
check_libraries() {
  local newest libraries
  newest=$(readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
  [[ $(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1) == "GLIBC_$glibc" ]] ||
    die "$1 needs $newest, but the package promises to run with glibc $glibc"
  libraries=$(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^(lib(c|m|dl|rt|pthread|util)\.so\.[0-9]|ld-linux-.*|libsystemd\.so\.0)$' || true)
  [[ -z $libraries ]] || die "$1 needs libraries the package does not depend on:" $libraries
}

# make_package_files FOLDER KITHD…: what [package.metadata.deb] in daemon/Cargo.toml takes from there, made by running kithd.
make_package_files() {
  local folder=$1 shell
  shift
  rm -rf "$folder"
  mkdir -p "$folder"
  "$@" --config deploy/kithd.toml man "$folder/man"
  gzip -9n "$folder"/man/*
  for shell in bash zsh fish; do "$@" --config deploy/kithd.toml completion $shell >"$folder/kithd.$shell"; done
  # From source the page stays on loopback; a board is there to be looked at.
  sed 's/^listen = "127\.0\.0\.1:8000"/listen = "0.0.0.0:8000"  /' deploy/kithd.toml >"$folder/kithd.toml"
  grep -q '^listen = "0\.0\.0\.0:8000"' "$folder/kithd.toml" || die "deploy/kithd.toml has no listen = \"127.0.0.1:8000\""
  printf 'kithd (%s-1) stable; urgency=medium\n\n  * See changelog.gz.\n\n -- kithd maintainers <maintainers@kithd.example>  %s\n' \
    "$(version)" "$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")" |
    gzip -9n >"$folder/changelog.Debian.gz"
}

# make_notices [--target TRIPLE]: the licence texts of the libraries in the executable, which have to go with it.
make_notices() {
  local name version licence file
  "$compile" tree --locked "$@" -p kithd -e normal --prefix none -f '{p} {l}' | grep -vE ' \(/| \(\*\)$' | sort -u |
    while read -r name version licence; do
      printf '==== %s %s: %s\n\n' "$name" "${version#v}" "$licence"
      for file in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-${version#v}"/{LICEN[CS]E,COPY,NOTICE}*; do
        if [[ -f $file ]]; then cat "$file" && echo; fi
      done
    done
}

# Refuses to release what is not one committed, tagged and described version.
check_release() {
  local version described
  version=$(version)
  described=$(sed -n 's/^## \[\{0,1\}\([^] ]*\).*/\1/p' CHANGELOG.md | head -n 1)
  [[ -z $(git status --porcelain) ]] || die "no release: there are changes that are not committed; see git status"
  git tag --points-at HEAD | grep -xF "v$version" >/dev/null ||
    die "no release: Cargo.toml says $version, but this commit has no tag v$version"
  [[ $described == "$version" ]] ||
    die "no release: Cargo.toml says $version, but CHANGELOG.md begins with '$described'"
}

# Licences, origins and known vulnerabilities of what is in the executable.
check_dependencies() {
  need_cargo_tool cargo-deny 0.20.2
  "$dev/cargo/bin/cargo-deny" check licenses bans sources
  if "$dev/cargo/bin/cargo-deny" fetch db; then
    need_cargo_tool cargo-audit 0.22.2
    "$dev/cargo/bin/cargo-deny" check advisories
    "$dev/cargo/bin/cargo-audit" audit
  else
    say "known vulnerabilities were NOT checked: the advisory database cannot be fetched from here"
  fi
}

# All that is published for a version, into target/dist.
release() {
  local dist=$target/dist architecture package
  need git:git
  check_release
  [[ ${1:-} != check ]] || return 0
  check_dependencies
  rm -rf "$dist"
  mkdir -p "$dist"
  for architecture in amd64 arm64; do
    build_deb $architecture
    cp "$target/debian/kithd_$(version)-1_$architecture.deb" "$dist/"
  done
  git archive --prefix="kithd-$(version)/" -o "$dist/kithd-$(version).tar.gz" HEAD
  make_sbom "$dist"
  (cd "$dist" && sha256sum -- * >SHA256SUMS)
  say "released into $dist: $(cd "$dist" && echo *)"
}
