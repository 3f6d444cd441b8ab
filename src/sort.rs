//! Heapsort and binary search.
//!
//! The sort of the standard library is two to three times as fast, but the build of every dependant pays for each type that
//! it sorts: 1,700 lines of LLVM IR, against 100 of this one. All lists here come from system calls that cost far more.

#![cfg_attr(windows, allow(dead_code, reason = "only scans search and sort by the natural order"))]

use std::cmp::Ordering;

/// Sorts in O(n log n) steps without memory. Equal items end up in any order.
pub(crate) fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::lt);
}

/// Returns the position of an item in a sorted list of this length, or the position where it belongs. The function compares
/// the item at a position with the one sought.
pub(crate) fn search(
    length: usize,
    compare: &mut dyn FnMut(usize) -> Ordering,
) -> Result<usize, usize> {
    let (mut start, mut end) = (0, length);
    while start < end {
        let middle = start + (end - start) / 2;
        match compare(middle) {
            Ordering::Less => start = middle + 1,
            Ordering::Equal => return Ok(middle),
            Ordering::Greater => end = middle,
        }
    }
    Err(start)
}

/// Returns the IDs that are not in this sorted list.
pub(crate) fn missing(ids: &[i32], list: &[i32]) -> Vec<i32> {
    let mut missing = Vec::new();
    for id in ids {
        if list.binary_search(id).is_err() {
            missing.push(*id);
        }
    }
    missing
}

pub(crate) fn sort_by<T>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) {
    let mut heap = items.len() / 2;
    let mut end = items.len();
    while end > 1 {
        if heap > 0 {
            heap -= 1;
        } else {
            // The first item of the heap is the greatest.
            end -= 1;
            items.swap(0, end);
        }
        // Move the first item down until none below it is greater.
        let mut item = heap;
        loop {
            let mut below = 2 * item + 1;
            if below + 1 < end && is_less(&items[below], &items[below + 1]) {
                below += 1;
            }
            if below >= end || !is_less(&items[item], &items[below]) {
                break;
            }
            items.swap(item, below);
            item = below;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_orders_are_sorted() {
        // All lists of up to six items that are below six.
        for length in 0..=6 {
            for number in 0..6_u32.pow(length) {
                let mut items: Vec<_> = (0..length).map(|i| number / 6_u32.pow(i) % 6).collect();
                let mut expected = items.clone();
                expected.sort_unstable();
                sort(&mut items);
                assert_eq!(items, expected);
            }
        }
    }

    #[test]
    fn items_are_found_and_missing_items_have_a_place() {
        for length in 0..20 {
            let items: Vec<usize> = (0..length).map(|i| 2 * i + 1).collect();
            for sought in 0..2 * length + 2 {
                let found = search(length, &mut |at| items[at].cmp(&sought));
                assert_eq!(found, items.binary_search(&sought));
            }
        }
    }

    #[test]
    fn long_lists_are_sorted() {
        let mut items: Vec<u64> = (0..100_000_u64).map(|i| i * 7_919 % 100_003).collect();
        sort_by(&mut items, |one, other| other < one);
        assert!(items.is_sorted_by(|one, other| one > other));
    }
}
