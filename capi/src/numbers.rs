//! Handles as C programs see them: positive numbers that name a socket for as long as it is open.
//!
//! A number is a place and how often the place was given away: 20 and 11 bits. A place rests
//! until 1024 others have been given up after it, so a number comes back after two million
//! further sockets at the earliest, and while its socket is open never. Where nearly all places
//! are taken there is no time to rest: a number comes back once its place was given away 2047
//! times.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Numbers<T> {
    places: Vec<Place<T>>,
    free: VecDeque<u32>,
}

/// As long as what the core's cache fetches at once: an event looks at one of them.
#[derive(Debug)]
#[repr(align(64))]
struct Place<T> {
    number: i32,
    value: Option<T>,
}

impl<T> Numbers<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: VecDeque::new() }
    }

    /// A number for a new value; `None` when there are a million already.
    pub(crate) fn insert(&mut self, value: T) -> Option<i32> {
        let has_rested = self.free.len() > REST || self.places.len() == PLACES_MAX;
        let index = if has_rested { Some(self.free.pop_front()?) } else { None };
        let Some(index) = index else {
            let index = i32::try_from(self.places.len()).expect("20 bits");
            let number = 1 << INDEX_BITS | index;
            self.places.push(Place { number, value: Some(value) });
            return Some(number);
        };
        let place = &mut self.places[index as usize];
        let turn = (place.number >> INDEX_BITS) % TURN_MAX + 1;
        place.number = turn << INDEX_BITS | i32::try_from(index).expect("20 bits");
        place.value = Some(value);
        Some(place.number)
    }

    pub(crate) fn remove(&mut self, number: i32) -> Option<T> {
        let place = self.place(number)?;
        let value = place.value.take()?;
        self.free.push_back(index_of(number));
        Some(value)
    }

    pub(crate) fn find_mut(&mut self, number: i32) -> Option<&mut T> {
        self.place(number)?.value.as_mut()
    }

    /// The numbers that are given away.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &T)> {
        self.places.iter().filter_map(|place| Some((place.number, place.value.as_ref()?)))
    }

    fn place(&mut self, number: i32) -> Option<&mut Place<T>> {
        let place = self.places.get_mut(index_of(number) as usize)?;
        (place.number == number).then_some(place)
    }
}

pub(crate) const fn index_of(number: i32) -> u32 {
    number.cast_unsigned() & ((1 << INDEX_BITS) - 1)
}

pub(crate) const INDEX_BITS: u32 = 20;
pub(crate) const PLACES_MAX: usize = 1 << INDEX_BITS;
const TURN_MAX: i32 = (1 << 11) - 1;
const REST: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A number is positive, names its value until that is removed, and then nothing.
    #[test]
    fn a_number_names_one_value_and_then_none() {
        let mut numbers = Numbers::new();
        let first = numbers.insert('a').unwrap();
        let second = numbers.insert('b').unwrap();
        assert!(first > 0 && second > 0 && first != second);
        assert_eq!(numbers.find_mut(first), Some(&mut 'a'));
        assert_eq!(numbers.remove(first), Some('a'));
        assert_eq!(numbers.find_mut(first), None);
        assert_eq!(numbers.remove(first), None);
        assert_eq!(numbers.find_mut(second), Some(&mut 'b'));
        for unknown in [0, -1, i32::MIN, i32::MAX, 1, first ^ 1 << INDEX_BITS] {
            assert_eq!(numbers.find_mut(unknown), None, "{unknown}");
        }
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [(second, &'b')]);
    }

    /// A number comes back after two million others at the earliest.
    #[test]
    fn numbers_are_in_no_hurry_to_come_back() {
        let mut numbers = Numbers::new();
        let kept = numbers.insert(()).unwrap();
        let mut last_seen = HashMap::new();
        let mut shortest = u32::MAX;
        for round in 0..2_200_000_u32 {
            let number = numbers.insert(()).unwrap();
            assert!(number > 0 && number != kept);
            numbers.remove(number);
            if let Some(before) = last_seen.insert(number, round) {
                shortest = shortest.min(round - before);
            }
        }
        assert!((2_000_000..u32::MAX).contains(&shortest), "after {shortest}");
        assert!(numbers.places.len() < 2 * REST, "memory stays small");
    }
}
