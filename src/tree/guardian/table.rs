//! The charges: what the guardian kills, in memory that this process and its guardian share.
//!
//! So a change requires no system call, takes effect at once, and survives the guardian: the next guardian inherits the
//! same memory. The guardian reads the charges when no thread of this process can write them any more.
//!
//! **A garbled table never widens the set of killed processes.** A charge counts once its state is stored, which comes
//! last. Its marker and path count only with the right checksum, its group only with the right seal. Checksum and seal
//! are separate because the group becomes known after the spawn.
//!
//! All fields are atomics because another process reads them. The lock around [`Table`] orders the writers.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The address space, not the memory: a page is allocated when a charge on it is first written.
const SIZE: usize = if cfg!(target_pointer_width = "64") { 32 << 20 } else { 4 << 20 };
const SMALLEST: usize = 64 << 10;

const CHARGE: u32 = 0x4348_4745;
const MORE: u32 = 0x4d4f_5245;
const FREE: u32 = 0;

/// Stored instead of the number of charges once the guardian has ended because there was none.
const ENDED: u32 = u32::MAX;

const BYTES: usize = 96;

/// One charge, or more bytes of the path of a charge.
#[repr(C)]
pub(super) struct Slot {
    state: AtomicU32,
    /// The number of the slot with more of the path. 0, the slot of the header, is none.
    next: AtomicU32,
    group: AtomicU32,
    seal: AtomicU32,
    since: [AtomicU32; 2],
    sum: AtomicU32,
    /// The lengths of the marker and of the path.
    lengths: AtomicU32,
    bytes: [AtomicU8; BYTES],
}

/// The header, which occupies the first slot.
#[repr(C)]
struct Header {
    charges: AtomicU32,
    /// Changes with each charge.
    generation: AtomicU32,
    /// All slots in use have smaller numbers than this.
    used: AtomicU32,
}

/// The shared memory, as both processes see it.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    header: &'static Header,
    slots: &'static [Slot],
}

/// A description of processes to kill.
#[derive(Clone, Copy)]
pub(super) struct Charge<'a> {
    pub(super) marker: &'a [u8],
    pub(super) cgroup: &'a [u8],
    /// No member has started before this, in clock ticks since the boot.
    pub(super) since: u64,
}

/// This process's access to the charges.
pub(super) struct Table {
    shared: Shared,
    free: Vec<u32>,
}

impl Table {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { shared: Shared::map()?, free: Vec::new() })
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared
    }

    /// Adds a charge. Returns its number, and whether the guardian had ended before.
    pub(super) fn put(&mut self, charge: Charge<'_>) -> io::Result<(u32, bool)> {
        if charge.marker.len() > BYTES || charge.cgroup.len() > Shared::LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot guard the tree: the path of its cgroup is too long",
            ));
        }
        let pieces = charge.cgroup.chunks(BYTES);
        let numbers = self.take(1 + pieces.len()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::OutOfMemory,
                "cannot guard the tree: too many trees are to be killed when this process dies",
            )
        })?;
        for (at, piece) in pieces.enumerate() {
            let slot = self.slot(numbers[at + 1]);
            slot.next.store(numbers.get(at + 2).copied().unwrap_or(0), Ordering::Relaxed);
            slot.write(piece);
            slot.state.store(MORE, Ordering::Relaxed);
        }
        let number = numbers[0];
        let head = self.slot(number);
        head.next.store(numbers.get(1).copied().unwrap_or(0), Ordering::Relaxed);
        head.seal.store(0, Ordering::Relaxed);
        let [low, high] = &head.since;
        low.store(charge.since as u32, Ordering::Relaxed);
        high.store((charge.since >> 32) as u32, Ordering::Relaxed);
        let lengths = (charge.marker.len() as u32) << 16 | charge.cgroup.len() as u32;
        head.lengths.store(lengths, Ordering::Relaxed);
        head.write(charge.marker);
        head.sum.store(self.shared.sum(number, head), Ordering::Relaxed);
        let header = self.shared.header;
        header.generation.fetch_add(1, Ordering::SeqCst);
        // From here on no guardian ends, because there is a charge.
        let more = |charges| Some(if charges == ENDED { 1 } else { charges + 1 });
        let before = header.charges.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        let ended = before == Ok(ENDED);
        head.state.store(CHARGE, Ordering::Release);
        Ok((number, ended))
    }

    pub(super) fn set_group(&mut self, number: u32, group: Option<u32>) {
        let slot = self.slot(number);
        slot.seal.store(0, Ordering::SeqCst);
        if let Some(group) = group {
            slot.group.store(group, Ordering::SeqCst);
            slot.seal.store(seal(number, group), Ordering::SeqCst);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        let mut next = number;
        while next != 0 {
            let slot = self.slot(next);
            slot.state.store(FREE, Ordering::SeqCst);
            self.free.push(next);
            next = slot.next.load(Ordering::Relaxed);
        }
        self.shared.header.charges.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self.shared.header.charges.load(Ordering::SeqCst), 0 | ENDED)
    }

    fn slot(&self, number: u32) -> &'static Slot {
        &self.shared.slots[number as usize]
    }

    /// Reserves this many free slots, or none.
    fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let used = &self.shared.header.used;
        let unused = self.shared.slots.len() - used.load(Ordering::Relaxed) as usize;
        if count > self.free.len() + unused {
            return None;
        }
        let next = || used.fetch_add(1, Ordering::SeqCst);
        Some((0..count).map(|_| self.free.pop().unwrap_or_else(next)).collect())
    }
}

impl Slot {
    fn write(&self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }
}

fn seal(number: u32, group: u32) -> u32 {
    let hash = [number, group].into_iter().flat_map(u32::to_le_bytes).fold(FNV, mix);
    // 0 is no seal.
    hash | 1
}

const FNV: u32 = 0x811c_9dc5;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().copied().fold(FNV, mix)
}

fn mix(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// The guardian calls these functions in the child of a fork: no allocation, no lock, no panic.
impl Shared {
    /// The longest path of the system.
    pub(super) const LONGEST: usize = 4096;

    fn map() -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANON;
        let mut size = SIZE;
        loop {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: new memory, in a place that the system chooses.
            let start = unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                let error = io::Error::last_os_error();
                size /= 2;
                if size < SMALLEST {
                    return Err(error);
                }
                continue;
            }
            let count = size / size_of::<Slot>();
            // SAFETY: the memory has this size, is aligned to a page, and is never unmapped. It is zero, which is a valid value
            // of these types, and they are atomics, so a write by another process is no undefined behaviour. The first slot is
            // never used, so the header overlaps nothing.
            let (header, slots) = unsafe {
                (&*start.cast::<Header>(), std::slice::from_raw_parts(start.cast::<Slot>(), count))
            };
            header.used.store(1, Ordering::SeqCst);
            return Ok(Self { header, slots });
        }
    }

    /// Returns the addresses of the mapping.
    #[cfg(any(test, target_os = "linux"))]
    pub(super) fn range(self) -> (usize, usize) {
        let range = self.slots.as_ptr_range();
        (range.start as usize, range.end as usize)
    }

    /// Returns each charge, with its number.
    pub(super) fn charges(self) -> impl Iterator<Item = (u32, &'static Slot)> {
        let used = self.header.used.load(Ordering::SeqCst);
        (0..used)
            .zip(self.slots)
            .skip(1)
            .filter(|(_, slot)| slot.state.load(Ordering::Acquire) == CHARGE)
    }

    /// Returns the charge with this number.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn charge(self, number: u32) -> Option<&'static Slot> {
        self.slots.get(number as usize).filter(|slot| slot.state.load(Ordering::Acquire) == CHARGE)
    }

    /// Returns the process group of a charge, if it has a valid one.
    pub(super) fn group(self, number: u32, slot: &Slot) -> Option<i32> {
        let group = slot.group.load(Ordering::SeqCst);
        let is_sealed = slot.seal.load(Ordering::SeqCst) == seal(number, group);
        // For kill(2), -1 means all processes, and 0 means the guardian's own group.
        i32::try_from(group).ok().filter(|group| is_sealed && *group > 1)
    }

    /// Copies the marker and the path of the cgroup, each empty if the charge has none. `None` if the charge is garbled.
    #[cfg(any(test, target_os = "linux", target_os = "android"))]
    pub(super) fn read<'a>(
        self,
        number: u32,
        slot: &Slot,
        buffer: &'a mut [u8],
    ) -> Option<Charge<'a>> {
        if slot.sum.load(Ordering::Relaxed) != self.sum(number, slot) {
            return None;
        }
        let (marker, path) = lengths(slot);
        let (to, rest) = buffer.split_at_mut_checked(marker)?;
        copy(slot, to);
        let to = rest.get_mut(..path)?;
        let mut slots = self.chain(slot);
        for piece in to.chunks_mut(BYTES) {
            copy(slots.next()?, piece);
        }
        let [low, high] = &slot.since;
        let (low, high) = (low.load(Ordering::Relaxed), high.load(Ordering::Relaxed));
        let since = u64::from(low) | u64::from(high) << 32;
        let (marker, rest) = buffer.split_at_checked(marker)?;
        Some(Charge { marker, cgroup: rest.get(..path)?, since })
    }

    /// Returns whether this charge has that marker.
    #[cfg(any(test, target_os = "linux", target_os = "android"))]
    pub(super) fn has_marker(slot: &Slot, marker: &[u8]) -> bool {
        let bytes = slot.bytes.iter().map(|byte| byte.load(Ordering::Relaxed));
        lengths(slot).0 == marker.len() && bytes.zip(marker).all(|(one, other)| one == *other)
    }

    fn sum(self, number: u32, slot: &Slot) -> u32 {
        let [low, high] = &slot.since;
        let words = [
            number,
            slot.lengths.load(Ordering::Relaxed),
            low.load(Ordering::Relaxed),
            high.load(Ordering::Relaxed),
        ];
        let hash = words.into_iter().flat_map(u32::to_le_bytes).fold(FNV, mix);
        let (marker, path) = lengths(slot);
        let marker = slot.bytes.iter().take(marker);
        let path = self.chain(slot).flat_map(|slot| &slot.bytes).take(path);
        marker.chain(path).map(|byte| byte.load(Ordering::Relaxed)).fold(hash, mix)
    }

    /// Returns the slots with the path.
    fn chain(self, head: &Slot) -> impl Iterator<Item = &'static Slot> {
        let follow = move |slot: &Slot| {
            let next = slot.next.load(Ordering::Relaxed) as usize;
            let next = self.slots.get(next).filter(|_| next != 0)?;
            (next.state.load(Ordering::Relaxed) == MORE).then_some(next)
        };
        // The limit ends a chain that is garbled into a circle.
        std::iter::successors(follow(head), move |slot| follow(slot))
            .take(Self::LONGEST.div_ceil(BYTES))
    }

    pub(super) fn generation(self) -> u32 {
        self.header.generation.load(Ordering::SeqCst)
    }

    /// Returns whether there is no charge. With `end`, the guardian ends in that case, and the next charge starts
    /// another.
    pub(super) fn is_empty(self, end: bool) -> bool {
        let then = if end { ENDED } else { 0 };
        match self.header.charges.compare_exchange(0, then, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(charges) => charges == ENDED,
        }
    }
}

fn lengths(slot: &Slot) -> (usize, usize) {
    let lengths = slot.lengths.load(Ordering::Relaxed);
    ((lengths >> 16) as usize, (lengths & 0xffff) as usize)
}

#[cfg(any(test, target_os = "linux", target_os = "android"))]
fn copy(slot: &Slot, to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(&slot.bytes) {
        *to = from.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> Vec<u8> {
        (0..1000_u32).map(|at| b'a' + (at % 26) as u8).collect()
    }

    fn charge(cgroup: &[u8]) -> Charge<'_> {
        Charge { marker: b"1-0123456789abcdef", cgroup, since: 7 << 32 | 9 }
    }

    #[test]
    fn charge_is_read_as_it_was_written() {
        let mut table = Table::new().unwrap();
        let shared = table.shared();
        let (first, ended) = table.put(charge(&long())).unwrap();
        assert!(!ended);
        let (second, _) = table.put(charge(b"")).unwrap();
        table.set_group(second, Some(77));
        let mut buffer = [0; 4200];
        let all: Vec<_> = shared.charges().collect();
        assert_eq!(all.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [first, second]);
        let read = shared.read(first, all[0].1, &mut buffer).unwrap();
        assert_eq!((read.marker, read.cgroup), (charge(b"").marker, &*long()));
        assert_eq!(read.since, 7 << 32 | 9);
        assert_eq!(shared.group(first, all[0].1), None);
        assert_eq!(shared.group(second, all[1].1), Some(77));
        assert!(Shared::has_marker(all[1].1, b"1-0123456789abcdef"));
        assert!(!Shared::has_marker(all[1].1, b"1-0123456789abcde"));
        table.set_group(second, None);
        assert_eq!(shared.group(second, all[1].1), None);
        table.remove(first);
        assert_eq!(shared.charges().count(), 1);
        assert!(!shared.is_empty(false));
        table.remove(second);
        assert!(shared.is_empty(false) && table.is_empty());
    }

    #[test]
    fn freed_slots_are_reused() {
        let mut table = Table::new().unwrap();
        for _ in 0..10_000 {
            let (number, _) = table.put(charge(&long())).unwrap();
            table.remove(number);
        }
        assert!(table.shared.header.used.load(Ordering::Relaxed) < 20);
    }

    #[test]
    fn charge_after_the_end_of_the_guardian_returns_that() {
        let mut table = Table::new().unwrap();
        let (number, _) = table.put(charge(b"")).unwrap();
        assert!(!table.shared.is_empty(true), "there is one");
        table.remove(number);
        assert!(table.shared.is_empty(true));
        assert!(table.is_empty());
        assert!(table.put(charge(b"")).unwrap().1);
        assert!(!table.is_empty());
        assert!(!table.put(charge(b"")).unwrap().1);
    }

    #[test]
    fn garbled_charge_names_no_other_process() {
        let mut table = Table::new().unwrap();
        let shared = table.shared();
        let (number, _) = table.put(charge(&long())).unwrap();
        table.set_group(number, Some(77));
        let size = size_of::<Slot>();
        let used = shared.header.used.load(Ordering::Relaxed) as usize;
        let (start, _) = shared.range();
        let slot = &shared.slots[number as usize];
        // SAFETY: the table has this size, is sufficiently aligned, and consists of atomics.
        let bytes = unsafe {
            std::slice::from_raw_parts((start + size) as *const AtomicU8, (used - 1) * size)
        };
        let mut buffer = [0; 4200];
        let expected =
            |read: &Charge<'_>| read.marker == charge(b"").marker && read.cgroup == long();
        for byte in bytes {
            for value in [0, 1, 0x80, 0xff] {
                let old = byte.swap(value, Ordering::Relaxed);
                let group = shared.group(number, slot);
                assert!(matches!(group, None | Some(77)), "{group:?}");
                for (number, slot) in shared.charges() {
                    let read = shared.read(number, slot, &mut buffer);
                    assert!(read.is_none_or(|read| expected(&read)));
                }
                byte.store(old, Ordering::Relaxed);
            }
        }
        assert!(expected(&shared.read(number, slot, &mut buffer).unwrap()));
    }

    #[test]
    fn invalid_group_is_not_killed() {
        let mut table = Table::new().unwrap();
        let (number, _) = table.put(charge(b"")).unwrap();
        let slot = table.slot(number);
        for (group, killed) in
            [(0, None), (1, None), (2, Some(2)), (i32::MAX as u32 + 1, None), (u32::MAX, None)]
        {
            table.set_group(number, Some(group));
            assert_eq!(table.shared.group(number, slot), killed);
        }
    }

    #[test]
    fn full_table_is_an_error() {
        let mut table = Table::new().unwrap();
        let count = table.shared.slots.len() - 1;
        let numbers: Vec<u32> = (0..count).map(|_| table.put(charge(b"")).unwrap().0).collect();
        let error = table.put(charge(b"")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        table.remove(numbers[0]);
        table.put(charge(b"")).unwrap();
    }
}
