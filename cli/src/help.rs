//! What `--help` says of each command behind its options: examples, what to know, exit codes.

macro_rules! exit_codes {
    () => {
        "Exit codes:
  0  the volume was read
  1  wrong arguments, or the output could not be written
  2  IMAGE is in use or cannot be read as a volume; one line on standard error says why, and where"
    };
}

macro_rules! partitions {
    () => {
        "IMAGE is a file or a block device, or with --partition a part of it that its partition table (GPT) names, by
number or by name. Addresses then count from the start of that part."
    };
}

macro_rules! image_in_use {
    () => {
        concat!(
            partitions!(),
            " It is opened for
reading only, and refused while another program has it open for writing, be it one of ours or a virtual machine."
        )
    };
}

pub(crate) const COMMANDS_HELP: &str = "Examples:
  arenite format --size 256M disk.img      a new volume in a new file
  arenite info disk.img                    what it is made of
  arenite map disk.img                     how full it is, and where
  arenite check disk.img                   whether it is whole
  arenite help dump                        more about a command, with examples

Exit codes; the help of each command says which it has, and what they mean there:
  0    success
  1    wrong arguments, or the command failed; of `check`: the volume is damaged
  2    IMAGE is in use or cannot be read as a volume; of `check`: wrong arguments too
  130  ended by Ctrl-C, SIGTERM or SIGHUP, in good order";

pub(crate) const INFO_HELP: &str = concat!(
    "Examples:
  arenite info disk.img
  arenite info /dev/sdb1
  arenite info --partition 2 disk.img
  arenite info --json disk.img | jq .free

JSON keys (bytes and byte addresses, if nothing else is said):
  format       \"gefs9.00\"
  block_size
  qgen         committed generation (a number)
  root         addr (null if there is no tree), hash (16 hexadecimal digits), height
  superblocks  first and second copy: \"ok\", or why not
  arenas       of each: addr, size, free, log_blocks (a number),
               header (\"primary\" or \"backup\": the copy that the commit names)
  free         all that the logs, replayed up to the committed barrier, leave free

A bad or older second copy is noted, and no error.

",
    image_in_use!(),
    "
With --no-lock, a volume that somebody is writing to shows one of its last commits.

",
    exit_codes!()
);

pub(crate) const FORMAT_HELP: &str = concat!(
    "Examples:
  arenite format --size 256M disk.img
  arenite format --force --block-size 4096 --arenas 2 disk.img
  arenite format /dev/sdb1
  arenite format --partition data disk.img

",
    partitions!(),
    "
--size makes a file, or gives it another length; a block device and a partition have their own. Without --force nothing
is overwritten or cut off: every byte of a file must be zero; of a block device the first MiB and the last 64 KiB, where
other file systems and partition tables have something.

Blocks have 16384 bytes, the only size of the original, or 4096 if the volume is smaller than 4 MiB. There are 8 arenas,
more above 32 TiB, fewer if they were tiny; at least 2 with blocks of 16384 bytes, because the original wants that.

Sizes are bytes, or have K, M, G or T behind them. IMAGE is locked meanwhile; a block device must not be mounted.

Exit codes:
  0    the volume was made
  1    wrong arguments, not blank, too small, in use, or the device failed; one line on standard error says what
  130  ended by Ctrl-C, SIGTERM or SIGHUP before anything was written (later, the command is finished first)"
);

pub(crate) const CHECK_HELP: &str = concat!(
    "Examples:
  arenite check disk.img
  arenite check --quiet disk.img && echo clean
  arenite check --json disk.img | jq -r '.findings[].what'

Checked are: both superblocks, both copies of each arena header, the logs, and their seals if
Arenite wrote them; the free space that the logs leave; and, where the tree under the root is one of the original or a
catalogue of arenite-catalog, that every block it leads to is in use, is what its pointer promises, and is reached in
one way only. Of a catalogue, blocks that are in use and not reached are findings too; volumes of the original have
such, because it loses some whenever it is stopped. Of other trees only what pivots lead to is checked; the output says
so. A second copy that is bad or behind is a note, no finding: the next commit repairs it.

Each finding is a line: its byte address, a colon, and what is wrong. Nothing is ever written.

",
    partitions!(),
    " It is locked against
writers meanwhile.

JSON keys:
  clean            true or false
  findings         of each: addr, what
  more_findings    number of those that are not listed
  notes            lines of text
  block_size, qgen, superblocks     as in `info`; null if the volume could not be mounted at all
  arenas, damaged_arenas, bad_header_copies     numbers
  sealed           whether Arenite wrote the last commit
  tree             \"none\", \"gefs\", \"catalog\" or \"not walked\"
  complete         whether every reachable block was met
  snapshots, nodes, data            what was met: numbers
  blocks           total, and each of them once: free, log, spare (never handed out), reachable, dead (on a dead list),
                   replaced (by messages that wait), unreachable

Exit codes:
  0  clean
  1  damaged
  2  wrong arguments, in use, or IMAGE cannot be read as a volume; one line on standard error says why"
);

pub(crate) const EXERCISE_HELP: &str = concat!(
    "Examples:
  arenite exercise --ops 1000000 --seed 1 --threads 2 disk.img
  arenite exercise --ops 100000 --seed 7 --fill 95 --commit-every 500 disk.img

Each operation allocates, fills and queues a block, reads one back and compares it, or frees one. The root, and all that
it leads to, stays as it is; everything taken is freed before the end, also after Ctrl-C. But every commit has the
blocks that are in hand at that moment: if this is killed, or the power fails, they stay in use and nothing leads to
them. So use it on copies, or on volumes that can spare the space.

",
    partitions!(),
    " It is locked
meanwhile.

Exit codes:
  0    all that was read was what was written, and the volume is as it was
  1    wrong arguments; or something was wrong: each error is a line on standard error
  2    IMAGE is in use or cannot be read as a volume
  130  ended by Ctrl-C, SIGTERM or SIGHUP, in good order"
);

pub(crate) const GROW_HELP: &str = concat!(
    "Examples:
  arenite grow --size 512M disk.img
  arenite grow /dev/sdb1

The space is added in new arenas behind the old ones; nothing is moved. A file is given the length --size (without it,
it was made longer before); a block device and a partition have their own. If the volume cannot grow, the file gets its
old length back. Sizes are bytes, or have K, M, G or T behind them.

",
    partitions!(),
    " It is locked
meanwhile; a block device must not be mounted.

Exit codes:
  0    the volume has grown
  1    wrong arguments, too small for one more arena, or the device failed
  2    IMAGE is in use or cannot be read as a volume
  130  ended by Ctrl-C, SIGTERM or SIGHUP before anything was written (later, the command is finished first)"
);

pub(crate) const DUMP_HELP: &str = concat!(
    "Examples:
  arenite dump disk.img                  superblocks, arena headers, logs entry by entry
  arenite dump disk.img 0x1c000          the block at this byte address
  arenite dump --as data disk.img 0      the bytes of a block, whatever it is
  arenite dump --json disk.img | jq '.arenas[0].log[].entries[] | select(.op == \"free\")'
  arenite dump --block-size 16384 disk.img 0x8000      without any good superblock

Nothing is mounted: blocks are read and decoded one by one, so a volume that is damaged can be looked at, as far as
pointers lead. What a block should be and is not is a line `damage:`, and the bytes follow as they are. A block whose
type nobody has said is what its first two bytes say, if it is that in every respect, and data otherwise: data that look
like something else are shown as that (--as data).

Whether a volume is damaged is told by `arenite check`.

",
    image_in_use!(),
    "
With --no-lock, of a volume that somebody is writing to, parts of different commits may be shown.

JSON: of a block: addr, type, hash (of the whole block), damage (null if none), and what its type has. Without ADDR an
object with superblocks (two blocks) and arenas (of each: addr, header (1, 2 or null: the copy that the superblock
names), headers, log, log_end, damage). Addresses and lengths are bytes; hashes, keys and values hexadecimal digits.

Exit codes:
  0  the blocks were shown
  1  wrong arguments, no block at ADDR, or the output could not be written
  2  IMAGE is in use or cannot be read, or no copy of its superblock is good (what there is was shown nevertheless)"
);

pub(crate) const MAP_HELP: &str = concat!(
    "Examples:
  arenite map disk.img
  arenite map disk.img -o disk.svg
  NO_COLOR=1 arenite map disk.img | less

A line or a band is an arena. Letters: H header, . free, : + # some, half, all used, L log, - reserved (the two blocks
at an arena's end that are never handed out), ? damaged. There are colours on a terminal, unless NO_COLOR is set. In the
picture the pointer shows addresses and numbers; it suits light and dark pages.

An arena whose header or log is damaged is shown as that; `arenite check` says more.

",
    image_in_use!(),
    "
With --no-lock, a volume that somebody is writing to shows one of its last commits.

Exit codes:
  0  the map was shown
  1  wrong arguments, or the output could not be written
  2  IMAGE is in use or cannot be read as a volume; one line on standard error says why, and where"
);

pub(crate) const TIMELINE_HELP: &str = "Examples:
  arenite timeline --example
  arenite serve disk.img --socket disk.sock --once --record disk.trace      (and somebody who uses the disk)
  arenite timeline disk.trace -o commit.svg
  arenite timeline --commit 1 disk.trace

Time runs from left to right, counted in events; where a long commit writes nothing but data, they are squeezed. A bar
is a write from its issue to its completion; a flush (F) makes durable what was completed before it was issued. Below is
what a crash at each moment shows: the commit before (o), the one before or this one, whole (?), this one (n). It is
this one for certain from the acknowledgement (^) on.

Exit codes:
  0  the commit was shown
  1  wrong arguments, no trace, no such commit, or the output could not be written";

pub(crate) const MAN_HELP: &str = "Examples:
  arenite man --out ~/.local/share/man/man1

Exit codes:
  0  the pages were written
  1  wrong arguments, or they could not be written";

pub(crate) const COMPLETIONS_HELP: &str = "Examples:
  arenite completions bash > ~/.local/share/bash-completion/completions/arenite
  arenite completions zsh > ~/.zfunc/_arenite
  arenite completions fish > ~/.config/fish/completions/arenite.fish

Exit codes:
  0  the script was printed
  1  wrong arguments, or the output could not be written";

const SERVE_HELP: &str = concat!(
    "Examples:
  arenite serve --socket /tmp/disk.sock disk.img
  arenite serve --socket /tmp/disk.sock --record disk.trace --once disk.img
  echo 'write from 100 fail eio' > bad; arenite serve --socket /tmp/disk.sock --script bad disk.img

  qemu-system-x86_64 ... -device virtio-blk-pci,drive=d \\
    -blockdev raw,node-name=d,file.driver=nbd,file.server.type=unix,file.server.path=/tmp/disk.sock

The protocol is NBD; the export is called \"disk\", or nothing. One client is served at a time; others wait. Ctrl-C ends
it in good order.

",
    partitions!(),
    " It is locked
meanwhile; a block device must not be mounted.

A trace holds what IMAGE held at the beginning, and the issue and completion of every write and flush since."
);

const SERVE_EXIT_CODES: &str = "Exit codes:
  0  served until it was stopped, or (--once) until the client had gone
  1  wrong arguments, a script that is not understood, a socket where another server answers, or the trace could not be
     written
  2  IMAGE is in use, or is no file or block device";

/// The help of `serve`, with the language of its scripts.
pub(crate) fn serve() -> String {
    format!("{SERVE_HELP}\n\n{}\n\n{SERVE_EXIT_CODES}", arenite_shim::nbd::script::HELP)
}

pub(crate) const BENCH_HELP: &str = "Examples:
  arenite bench --help
  arenite bench --list
  arenite bench --filter write --dir /mnt/disk

Exit codes:
  0  no goal was missed by more than the spread
  1  a goal was missed, or there is no arenite-bench
  2  something could not be measured";

pub(crate) const CRASH_HELP: &str = "Examples:
  arenite crash --help
  arenite crash --list
  arenite crash --rung 1
  arenite crash --trace disk.trace

Exit codes:
  0  no failure
  1  a state, a fault or a flipped bit was not survived, or there is no arenite-crash
  2  wrong arguments
  3  a rung that was asked for by its number was not tried";
