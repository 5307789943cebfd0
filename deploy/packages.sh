# Builds for the boards: ./dev cross, ./dev deb and ./dev release. Sourced by ./dev, whose functions it uses.
#
# The compilers of Debian and rustup compile, so that the libraries of ./dev test and ./dev run are reused. Only the
# executable is linked with zig, against the glibc of Debian 11 and Ubuntu 20.04, so that it runs on every board.
arm=aarch64-unknown-linux-gnu
glibc=2.31 # JetPack 5 has this version, every later system a newer one
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
photos=daemon/tests/photos
# Published packages are built with the profile dist, which takes long; packages for tests are not.
profile=release

# Prepares cross-compiling for arm64 with Debian's own cross packages, for use_architecture.
use_cross_toolchain() {
  dpkg --print-foreign-architectures | grep -qx arm64 || as_root dpkg --add-architecture arm64
  need_to_build
  need aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static
  need_library libc6-dev-arm64-cross libsystemd-dev:arm64
  if [[ ! -d $(rustc --print target-libdir --target $arm) ]]; then
    # Debian packages the standard library of other architectures for its own compiler.
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

# Prepares this shell to build for an architecture: `compile` is the cargo to use, `for_target` its option, `built` the
# folder of its products, `runner` the command that runs them here.
use_architecture() {
  compile=cargo for_target=() built=$target/$profile runner=()
  [[ $1 =~ ^(amd64|arm64)$ ]] || die "kithd is built for amd64 and arm64, not for '$1'"
  if [[ $1 == $(dpkg --print-architecture) ]]; then need_to_build; return; fi
  [[ $1 == arm64 ]] || die "packages for amd64 can only be built on amd64"
  for_target=(--target $arm) built=$target/$arm/$profile runner=(qemu-aarch64-static)
  use_cross_toolchain
}

# Links the executable for an architecture and checks the libraries it needs, and its size. The
# level is that of link-time optimisation: see the profile dist in Cargo.toml.
build_kithd() {
  need_zig
  "$compile" rustc --profile $profile --locked "${for_target[@]}" -p kithd --bin kithd -- \
    -C opt-level=3 -C linker="$(zig_linker "$1")"
  check_libraries "$built/kithd"
  [[ $profile-$1 != dist-amd64 ]] || check_size "$built/kithd" # arm64's was not measured yet
}

# check_size FILE: packages promise an executable of at most 30 MB.
check_size() {
  local bytes most=30000000
  bytes=$(stat -c %s "$1")
  ((bytes <= most)) || die "$1 has $bytes bytes, more than $most"
}

# Builds for arm64 and tests the result on two emulated processors. It runs in a subshell, like build_deb, so that the
# toolchain's settings do not affect later builds.
build_cross() (
  use_architecture arm64
  build_kithd arm64
  try_kernels pi4:int8 pi5:int8 pi5:float16
  # Runs only tests of the models that take seconds under emulation, including the pack's own picture in every precision. A
  # picture takes about three seconds, so tests with hundreds of them, with large ones and with time limits are left out.
  emulate pi5
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
  "$compile" test --release --locked "${for_target[@]}" -p kithd -p kith-vision --test vision -- \
    broken_packs:: gallery:: the_self_test --skip milliseconds
  # Tests the direct convolution with SDOT and without.
  for board in pi5 pi4; do
    emulate $board
    "$compile" test --release --locked "${for_target[@]}" -p kith-kernels --lib
  done
  count_instructions pi5
)

# try_kernels BOARD:PRECISION…: checks that people are told apart, with the instructions the board has for that precision.
try_kernels() {
  local one board precision said log=$dev/boards/instructions
  # Opcodes in qemu's log: products of four bytes each (SDOT), and of eight half-precision numbers by one element (FMLA).
  local sdot=':  (4f[89ab].e[0-389ab]|4e[89].9[4-7])' half=':  4f[0-3].1[0-389ab]'
  own_folder "$dev"
  for one in "$@"; do
    board=${one%:*} precision=${one#*:}
    emulate "$board"
    rm -f "$log"
    said=$(QEMU_LOG=in_asm QEMU_LOG_FILENAME=$log KITHD_PACKS=$PWD/models/packs qemu-aarch64-static "$built/kithd" \
      --config deploy/kithd.toml --set "models.precision=$precision" eval --json --pairs $photos/pairs.csv)
    [[ $said == *'"accuracy":1.0,'*'"misses":0,'* ]] || die "as on a $board with $precision, people are confused: $said"
    say "as on a $board with $precision: $(grep -cE "$sdot" "$log") SDOT, $(grep -cE "$half" "$log") half-precision"
    case $one in
      pi4:*) if grep -qE "$sdot|$half" "$log"; then die "kithd used instructions that a Raspberry Pi 4 does not have"; fi ;;
      *:int8) grep -qE "$sdot" "$log" || die "int8 ran without SDOT as on a $board" ;;
      *:float16) grep -qE "$half" "$log" || die "float16 ran without half precision as on a $board" ;;
    esac
  done
}

# count_instructions BOARD…: prints the millions of instructions of the recogniser and of one picture, and fails if int8 does
# not need fewer than float32 on a board with SDOT. A plugin counts them, which qemu-user-static cannot load; it uses the
# plugin interface of versions before 9.
count_instructions() (
  local board counter=$dev/boards/instructions.so
  use_architecture arm64
  need qemu-aarch64:qemu-user
  if ! [[ $(qemu-aarch64 --version) =~ version\ [678]\. && $(qemu-aarch64 -h) == *-plugin* ]]; then
    say "instructions were NOT counted: that needs a qemu-aarch64 of version 6 to 8 with plugins, such as Debian 12's"
    return
  fi
  own_folder "$dev"
  mkdir -p "${counter%/*}"
  cc -std=c11 -O2 -shared -fPIC -o "$counter" models/benches/instructions.c
  "$compile" build --release --locked "${for_target[@]}" -p kithd -p kith-vision --example instructions
  for board in "$@"; do
    emulate "$board"
    echo "As on a $board, millions of instructions:"
    qemu-aarch64 -plugin "$counter" "$built/examples/instructions" models/packs/sface |
      awk -v sdot="$([[ $board == pi4 ]] || echo yes)" '
        BEGIN { printf "%-40s %8s %14s %6s %6s\n", "", "vectors", "loads, stores", "other", "all" }
        $4 == "begin" { for (i = 1; i <= 3; i++) before[i] = $i }
        $4 == "end" {
          what = substr($0, index($0, " end ") + 5)
          for (i = 1; i <= 3; i++) spent[i] = ($i - before[i]) / 1e6
          all[what] = spent[1] + spent[2] + spent[3]
          printf "%-40s %8.1f %14.1f %6.1f %6.1f\n", what, spent[1], spent[2], spent[3], all[what]
        }
        END {
          int8 = all["recogniser int8"]
          own = all["recogniser float32"]
          tract = all["recogniser float32 in tract'"'"'s operators"]
          if (!int8 || !own || !tract) exit 1
          printf "int8 takes %.2f of float32 in tract'"'"'s operators, %.2f of ours\n", int8 / tract, int8 / own
          if (sdot && (int8 >= tract || int8 >= own)) exit 1
        }' || die "as on a $board, int8 takes as many instructions as float32, or they could not be counted"
  done
)

# emulate pi4|pi5: makes qemu emulate that board's processor. The Pi 4 has neither SDOT nor half precision; the Pi 5 has
# both, as a Jetson Orin. tract reads the features from /proc/cpuinfo, which under qemu is this machine's own unless it is
# replaced.
emulate() {
  local features="fp asimd" part=0xd08
  export QEMU_CPU=cortex-a72 QEMU_LD_PREFIX=$dev/boards/$1
  if [[ $1 == pi5 ]]; then QEMU_CPU=cortex-a76 part=0xd0b features+=" fphp asimdhp asimddp"; fi
  mkdir -p "$QEMU_LD_PREFIX/proc"
  printf 'Features\t: %s\nCPU part\t: %s\n' "$features" $part >"$QEMU_LD_PREFIX/proc/cpuinfo"
}

# build_deb ARCHITECTURE: builds and checks target/debian/kithd_VERSION-1_ARCHITECTURE.deb, and the packs' own packages.
build_deb() (
  local package=$target/debian/kithd_$(version)-1_$1.deb
  use_architecture "$1"
  need dpkg-deb:dpkg lintian:lintian readelf:binutils python3:python3
  need_cargo_tool cargo-deb 3.8.0
  build_kithd "$1"
  make_package_files "$built/package" "${runner[@]}" "$built/kithd"
  make_notices "${for_target[@]}" | gzip -9n >"$built/package/third-party-licences.gz"
  "$dev/cargo/bin/cargo-deb" deb --no-build --no-strip --quiet --profile $profile "${for_target[@]}" -p kithd --output "$target/debian/"
  lintian --allow-root --fail-on error "$package"
  build_pack dlib dlib-mtcnn
  if ((${#for_target[@]} == 0)); then try_package "$package"; fi
)

# build_pack NAME PACK: builds and checks target/debian/kithd-pack-NAME_VERSION-1_all.deb, unless kithd's package has the pack.
build_pack() {
  local name=kithd-pack-$1 work
  local package=$target/debian/${name}_$(version)-1_all.deb
  rm -f "$package"
  [[ $2 != "$(<models/packs/bundled)" ]] || return 0
  work=$(mktemp -d)
  install -d "$work/root/DEBIAN" "$work/root/usr/share/doc/$name" "$work/root/usr/share/kithd/packs/$2"
  install -m 644 "models/packs/$2"/* "$work/root/usr/share/kithd/packs/$2/"
  install -m 644 deploy/debian/copyright "$work/root/usr/share/doc/$name/copyright"
  debian_changelog "$name" >"$work/root/usr/share/doc/$name/changelog.Debian.gz"
  cat >"$work/root/DEBIAN/control" <<CONTROL
Package: $name
Version: $(version)-1
Architecture: all
Maintainer: kithd maintainers <maintainers@kithd.example>
Installed-Size: $(du -k -s "$work/root/usr" | cut -f 1)
Depends: kithd (>= $(version)-1)
Section: video
Priority: optional
Description: model pack $2 for the face-identification appliance kithd
 Neural networks that kithd uses instead of those in its own package once
 models.pack in /etc/kithd/kithd.toml is "/usr/share/kithd/packs/$2".
CONTROL
  chmod -R u=rwX,go=rX "$work/root"
  dpkg-deb --root-owner-group -Zxz -b "$work/root" "$package" >/dev/null
  rm -rf "$work"
  lintian --allow-root --fail-on error --suppress-tags initial-upload-closes-no-bugs "$package"
}

# try_package FILE: installs, upgrades, removes and purges it, with the packs' packages, in a temporary small Debian.
try_package() {
  local work package=$1
  ((EUID == 0)) || { say "the installation of $package was not tested: that needs root"; return; }
  need mmdebstrap:mmdebstrap
  work=$(mktemp -d)
  # The previous version is a copy of this one with another number.
  dpkg-deb -R "$package" "$work/old"
  sed -i 's/^Version: .*/Version: 0.0.0-1/' "$work/old/DEBIAN/control"
  dpkg-deb -Zgzip -z1 -b "$work/old" "$work/old.deb" >/dev/null
  cp "$package" "$work/new.deb"
  mkdir "$work/packs"
  find "$target/debian" -name "kithd-pack-*_$(version)-1_all.deb" -exec cp -t "$work/packs" {} +
  mmdebstrap --quiet --variant=minbase --include=systemd --customize-hook="copy-in $work/old.deb $work/new.deb $work/packs deploy/debian/try /" \
    --customize-hook='chroot "$1" /try /old.deb /new.deb /packs' "$(. /etc/os-release && echo "$VERSION_CODENAME")" /dev/null
  rm -rf "$work"
}

# Prints the version of the workspace.
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# need_cargo_tool NAME VERSION: installs a cargo subcommand in our own folder.
need_cargo_tool() {
  grep -qs "^\"$1 $2 " "$dev/cargo/.crates.toml" && return
  say "building $1 $2"
  own_folder "$dev"
  env -u RUSTC CARGO_TARGET_DIR="$dev/cargo/build" cargo install --quiet --locked --root "$dev/cargo" --version "$2" "$1"
  rm -rf "$dev/cargo/build"
}

# Installs zig with its wrapper for cargo, from the Python Package Index.
need_zig() {
  local wheels="cargo-zigbuild==0.24.0 ziglang==0.15.2"
  [[ $(cat "$dev/zig/wheels" 2>/dev/null) != "$wheels" ]] || return 0
  own_folder "$dev"
  python3 -c 'import ensurepip' 2>/dev/null || need "no-python-venv:python3-venv"
  python3 -m venv --clear "$dev/zig"
  # shellcheck disable=SC2086 # two words
  "$dev/zig/bin/pip" install -q --disable-pip-version-check $wheels
  echo "$wheels" >"$dev/zig/wheels" # last, so that an interrupted installation is repeated
}

# zig_linker ARCHITECTURE: makes a linker for executables that need at most our glibc, and prints its path.
# The linker folds identical functions and constants. zig's front end has no option for that, so
# its ld.lld runs once more, with the same arguments and the two options.
zig_linker() {
  local machine=x86_64 linker=$dev/zig/link-$1
  if [[ $1 == arm64 ]]; then machine=aarch64; fi
  cat >"$linker" <<LINKER
#!/bin/sh
export PATH="$dev/zig/bin:\$PATH" ZIG_GLOBAL_CACHE_DIR="$dev/zig/cache" ZIG_LOCAL_CACHE_DIR="$dev/zig/cache"
said=\$(mktemp) && trap 'rm -f "\$said"' EXIT
ZIG_VERBOSE_LINK=1 cargo-zigbuild zig cc -- -target $machine-linux-gnu.$glibc "\$@" 2>"\$said" || { cat "\$said" >&2; exit 1; }
command=\$(grep '^ld\.lld ' "\$said" | tail -n 1)
[ -n "\$command" ] || { echo "zig did not say how it links" >&2; exit 1; }
# shellcheck disable=SC2086 # a command's words
python-zig \$command --icf=all --ignore-data-address-equality
LINKER
  chmod +x "$linker"
  echo "$linker"
}

# check_libraries FILE: checks that it needs only the libraries in the package's Depends.
check_libraries() {
  local newest libraries
  newest=$(readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
  [[ $(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1) == "GLIBC_$glibc" ]] ||
    die "$1 needs $newest, but the package promises to run with glibc $glibc"
  libraries=$(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^(lib(c|m|dl|rt|pthread|util)\.so\.[0-9]|ld-linux-.*|libsystemd\.so\.0)$' || true)
  [[ -z $libraries ]] || die "$1 needs libraries the package does not depend on:" $libraries
}

# make_package_files FOLDER KITHD…: runs kithd to make the files that [package.metadata.deb] in daemon/Cargo.toml includes.
make_package_files() {
  local folder=$1 shell
  shift
  rm -rf "$folder"
  mkdir -p "$folder"
  "$@" --config deploy/kithd.toml man "$folder/man"
  gzip -9n "$folder"/man/*
  for shell in bash zsh fish; do "$@" --config deploy/kithd.toml completion $shell >"$folder/kithd.$shell"; done
  # From source the page listens on loopback only; on a board, people open it from the network.
  sed 's/^listen = "127\.0\.0\.1:8000"/listen = "0.0.0.0:8000"  /' deploy/kithd.toml >"$folder/kithd.toml"
  grep -q '^listen = "0\.0\.0\.0:8000"' "$folder/kithd.toml" || die "deploy/kithd.toml has no listen = \"127.0.0.1:8000\""
  debian_changelog kithd >"$folder/changelog.Debian.gz"
  mkdir "$folder/packs"
  cp -r "models/packs/$(<models/packs/bundled)" "$folder/packs/"
}

# debian_changelog PACKAGE: prints Debian's own changelog of a package, compressed.
debian_changelog() {
  printf '%s (%s-1) stable; urgency=medium\n\n  * See changelog.gz of kithd.\n\n -- kithd maintainers <maintainers@kithd.example>  %s\n' \
    "$1" "$(version)" "$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")" | gzip -9n
}

# make_notices [--target TRIPLE]: prints the licence texts of the libraries in the executable, which must accompany it.
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

# Checks that the release is a committed, tagged version with a changelog entry.
check_release() {
  local version described
  version=$(version)
  described=$(sed -n 's/^## \[\{0,1\}\([^] ]*\).*/\1/p' CHANGELOG.md | head -n 1)
  [[ -z $(git status --porcelain) ]] || die "no release: there are uncommitted changes; see git status"
  git tag --points-at HEAD | grep -xF "v$version" >/dev/null ||
    die "no release: Cargo.toml says $version, but this commit has no tag v$version"
  [[ $described == "$version" ]] ||
    die "no release: Cargo.toml says $version, but CHANGELOG.md begins with '$described'"
}

# Checks licences, origins and known vulnerabilities of the executable's dependencies.
check_dependencies() {
  need_cargo_tool cargo-deny 0.20.2
  "$dev/cargo/bin/cargo-deny" check licenses bans sources
  if "$dev/cargo/bin/cargo-deny" fetch db 2>/dev/null; then
    need_cargo_tool cargo-audit 0.22.2
    "$dev/cargo/bin/cargo-deny" check advisories
    "$dev/cargo/bin/cargo-audit" audit
  else
    say "known vulnerabilities were NOT checked: the advisory database cannot be fetched from here"
  fi
}

# make_sbom FILE: writes the executable's bill of materials in CycloneDX format.
make_sbom() {
  local work
  need_cargo_tool cargo-cyclonedx 0.5.9
  # The tool writes beside each Cargo.toml, so it gets a copy of the tree.
  work=$(mktemp -d)
  git archive HEAD | tar -x -C "$work"
  "$dev/cargo/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target $arm \
    --manifest-path "$work/daemon/Cargo.toml"
  sed "s|$work|/kithd-$(version)|g" "$work/daemon/kithd.cdx.json" >"$1"
  rm -rf "$work"
}

# Builds everything that is published for a version into target/published.
release() {
  local published=$target/published architecture
  need git:git
  check_release
  [[ ${1:-} != check ]] || return 0
  check_dependencies
  rm -rf "$published"
  mkdir -p "$published"
  for architecture in amd64 arm64; do
    build_deb $architecture
    cp "$target/debian/kithd_$(version)-1_$architecture.deb" "$published/"
  done
  cp "$target"/debian/kithd-pack-*_"$(version)"-1_all.deb "$published/"
  git archive --prefix="kithd-$(version)/" -o "$published/kithd-$(version).tar.gz" HEAD
  make_sbom "$published/kithd-$(version).cdx.json"
  (cd "$published" && sha256sum -- * >SHA256SUMS)
  say "released into $published: $(cd "$published" && echo *)"
}
