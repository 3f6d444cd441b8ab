//! The turns of calls that exclude each other.

use crate::watchlist::next_token;

/// The calls that wait for their turn, in the order in which they began.
#[derive(Default)]
pub(super) struct Turns(Vec<u64>);

impl Turns {
    /// Returns whether the turn of a call has come. If not, the call has a place from now on.
    pub(super) fn take(&mut self, place: &mut Option<u64>, is_free: bool) -> bool {
        // Without waiting calls, the turn is that of a call without a place.
        if is_free && self.0.first() == place.as_ref() {
            self.leave(place);
            return true;
        }
        if place.is_none() {
            let token = next_token();
            self.0.push(token);
            *place = Some(token);
        }
        false
    }

    /// Gives up the place of a call, if it has one.
    pub(super) fn leave(&mut self, place: &mut Option<u64>) {
        if let Some(place) = place.take() {
            self.0.retain(|other| *other != place);
        }
    }
}
