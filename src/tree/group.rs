//! Unix: a process group, and a sweep for those that have left it.
//!
//! **Why no recycled group is hit.** The group's ID is the leader's process ID, and stays taken while
//! the leader is unreaped. The leader is pinned for as long as the tree may have members, so we do not
//! reap it, and the signal is sent under the lifecycle's lock. If *somebody else* reaps it, the exit notice
//! knows: with a pidfd the group is meant by the descriptor, and otherwise it is left alone from then on.
//!
//! **Why no recycled process is hit.** Whoever is signalled by itself is first held (a pidfd), then read
//! anew, then found to live still; so what was read is true of the one that is held:
//!
//! | it is a member if | why that is so |
//! |---|---|
//! | it is in the group | the leader was still unreaped *after* this was read |
//! | its parent is a member | that one was still there *after* this was read, so it is not about the next owner of its ID |
//! | it carries the cookie | nobody else has it |
//! | it was seen in the group | it is older than the look that saw it there, and so not the next owner of its ID |
//!
//! **Why nobody is missed.** A kill finds everybody before it kills anybody, since with a parent the way
//! to its children is lost. Linux kills a group as one: whoever is being forked just then is killed with
//! it, or not born. Who was seen in it may be elsewhere for the moment of the signal, so all who were seen are killed
//! one by one as well. Those outside can fork until they are hit. So it looks again until it finds nobody
//! new; and where process IDs are handed out in turn, it only has to look at those that were handed out
//! since it began, which is fast enough to catch up with one who forks and exits, over and over:
//!
//! - Who lived all the while that the list was read is in the list. Who did not was born since, or has
//!   exited, and its child, if it had one, was born since.
//! - The new are looked at in the order of their IDs, so a parent comes before its child. Suppose that a look
//!   finds no member, and yet one lives whose ID was handed out before the look. When its turn came it
//!   was not there yet, so its parent lived, which was not found either: so it was not there yet when its
//!   own turn came, and so on, up to one whose parent had been killed before, and could not give birth any
//!   more. So there is none.
//! - And if its ID was handed out during the look? Then one of its line was looked at, and had died, since
//!   its child was born after the look began. So the next look is at those who are newer still, until there
//!   are no dead among them.
//!
//! What is left are those who have done away with all three before anybody has looked: out of the group,
//! parent dead, environment emptied. (So too who is seen in the group, and is elsewhere a moment later when it is held,
//! if it has emptied its environment and is so young, some 20 ms, that it might be the next owner of its ID.) That is why
//! [`Containment`] says best effort.

use super::cookie::Cookie;
use super::processes::{self, AT_ONCE, Census, Held, Other, PASSES, Since, send};
use super::{Containment, Leader, Mechanism};
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a look at all may wait for those who cannot be told to be strangers yet.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Group {
    /// The leader's process ID, and the group's.
    id: i32,
    cookie: Option<Cookie>,
    since: Since,
    /// Members outside the group that could not be found again, and so stay held for as long as they live:
    /// those that carry no cookie, and were found by their parents; and those that were killed, since the dying
    /// show no cookie.
    strays: Mutex<Vec<Arc<Held>>>,
}

/// Who belongs to the tree.
struct Found {
    /// Members of the group, zombies among them. (None if the group is not to be relied on.)
    inside: Vec<i32>,
    /// The others, all of whom lived.
    outside: Vec<Arc<Held>>,
    /// How many of these were known before.
    known: usize,
    /// Those who were gone when they were looked at, and may have had children.
    gone: Vec<i32>,
    /// When the look began: who has an ID that was seen in the group, and is older than this, is the one that was seen.
    since: Since,
}

/// Those who were seen in the group, and live.
#[derive(Default)]
struct Seen {
    inside: Vec<Arc<Held>>,
    /// Those who have left it since.
    left: Vec<Arc<Held>>,
}

impl Seen {
    fn all(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.inside.iter().chain(&self.left)
    }
}

impl Found {
    fn ids(&self) -> HashSet<i32> {
        self.inside.iter().copied().chain(ids(&self.outside)).collect()
    }
}

/// A look at those who are new.
struct Look {
    /// In the group, but for those who were known.
    joined: Vec<Arc<Held>>,
    /// Outside, with those who were known.
    outside: Vec<Arc<Held>>,
    /// There is nobody new.
    nobody: bool,
    /// And nobody can have been missed.
    is_last: bool,
    newest: i32,
    since: Since,
}

/// Those that live.
struct Living {
    inside: Vec<i32>,
    outside: Vec<Arc<Held>>,
    since: Since,
}

impl Living {
    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }
}

/// Among whom to look.
#[derive(Clone, Copy)]
enum Among {
    All,
    /// Those whose ID was handed out after this one, and not after that.
    New(i32, i32),
}

/// What a process turns out to be.
enum Verdict {
    Member { held: Held, is_stray: bool },
    Stranger,
    Gone,
}

impl Group {
    pub(super) fn new(leader: u32, cookie: Option<Cookie>, since: Since) -> Self {
        Self { id: leader as i32, cookie, since, strays: Mutex::default() }
    }

    pub(super) fn containment(&self) -> Containment {
        let by = if processes::usable() {
            Mechanism::ProcessGroupAndSweep
        } else {
            Mechanism::ProcessGroup
        };
        Containment::BestEffort { by }
    }

    pub(super) fn kill(&self, leader: &Leader) -> io::Result<()> {
        if !processes::usable() {
            return self.signal_group(leader, libc::SIGKILL);
        }
        // Before the list is read.
        let newest = processes::newest();
        let (mut found, _) = self.signal_all(leader, libc::SIGKILL)?;
        for some in found.inside.chunks(AT_ONCE) {
            let seen = self.hold(leader, some, found.since)?;
            // Who may not be killed is met again below.
            let _ = send(&seen.inside, libc::SIGKILL).and(send(&seen.left, libc::SIGKILL));
            found.outside.extend(seen.left);
        }
        match newest {
            // A tree that stays in its group is done with, and that is most of them.
            Some(newest) if found.outside.is_empty() => self.chase(leader, found, newest),
            // Some containers have a `/proc` in which the newest is not what it should be. So where
            // somebody has left the group before, all are looked at once more.
            Some(newest) => {
                let known = found.ids();
                self.chase(leader, found, newest)?;
                self.repeat(leader, known)
            }
            None => self.repeat(leader, found.ids()),
        }
    }

    /// The rest of a kill, where process IDs are handed out in turn: of those that were handed out after
    /// this one.
    fn chase(&self, leader: &Leader, first: Found, mut after: i32) -> io::Result<()> {
        let Found { inside, mut outside, since, .. } = first;
        // Those in the group who have been killed by now, and may take a while to die.
        let mut killed = HashSet::new();
        for _ in 0..PASSES {
            let look = self.look_at_new(leader, after, outside, &killed)?;
            killed.extend(ids(&look.joined));
            self.hold_on_to(&look.outside);
            // Who may not be killed is met again below.
            let _ = send(&look.joined, libc::SIGKILL).and(send(&look.outside, libc::SIGKILL));
            outside = look.outside;
            if look.is_last {
                let refused = self.refused(leader, &inside, since);
                return send(&outside, libc::SIGKILL).and(refused);
            }
            // Before they were killed they may have forked whom this look has come too early for.
            if look.nobody {
                after = look.newest;
            }
        }
        Err(self.too_fast())
    }

    /// Looks for members among the processes whose IDs were handed out after this one.
    fn look_at_new(
        &self,
        leader: &Leader,
        after: i32,
        mut known: Vec<Arc<Held>>,
        known_inside: &HashSet<i32>,
    ) -> io::Result<Look> {
        // The dead have no children any more.
        known.retain(|held| held.lives());
        let newest = processes::newest().unwrap_or(after);
        let Found { inside, mut outside, known, gone, since } =
            self.find(leader, Among::New(after, newest), known)?;
        let Seen { inside: mut joined, left } = self.hold(leader, &inside, since)?;
        joined.retain(|member| !known_inside.contains(&member.id()));
        outside.extend(left);
        let nobody = joined.is_empty() && outside.len() == known;
        Ok(Look { joined, outside, nobody, is_last: nobody && gone.is_empty(), newest, since })
    }

    /// The rest of a kill, elsewhere: looks at all, until there is nobody who is not known.
    fn repeat(&self, leader: &Leader, mut known: HashSet<i32>) -> io::Result<()> {
        let mut left = HashSet::new();
        for _ in 0..PASSES {
            let Living { inside, outside, since } = self.living(leader)?;
            self.hold_on_to(&outside);
            let mut refused = send(&outside, libc::SIGKILL);
            let before = known.len() + left.len();
            for some in inside.chunks(AT_ONCE) {
                // Most were killed with the group and are on their way out; but not who has joined it since.
                let seen = self.hold(leader, some, since)?;
                left.extend(ids(&seen.left));
                refused = send(&seen.inside, libc::SIGKILL)
                    .and(send(&seen.left, libc::SIGKILL))
                    .and(refused);
            }
            known.extend(ids(&outside).chain(inside));
            if known.len() + left.len() == before {
                return refused;
            }
        }
        Err(self.too_fast())
    }

    /// The error of those in the group who may not be signalled. A signal to the group passes them over in
    /// silence, if there are others.
    fn refused(&self, leader: &Leader, inside: &[i32], since: Since) -> io::Result<()> {
        // By the ID, which may be another's: nothing is sent here, and whoever it is about is held next.
        let refuse = |id: &&i32| processes::refuses(**id);
        let refusing: Vec<i32> = inside.iter().filter(refuse).copied().collect();
        let mut refused = Ok(());
        for some in refusing.chunks(AT_ONCE) {
            let seen = self.hold(leader, some, since)?;
            refused = send(&seen.inside, 0).and(send(&seen.left, 0)).and(refused);
        }
        refused
    }

    fn too_fast(&self) -> io::Error {
        let message =
            format!("the tree of process {} grows faster than it can be looked at", self.id);
        io::Error::other(message)
    }

    pub(super) fn signal(&self, leader: &Leader, signal: c_int) -> io::Result<()> {
        if !processes::usable() {
            return self.signal_group(leader, signal);
        }
        let (found, refused) = self.signal_all(leader, signal)?;
        self.refused(leader, &found.inside, found.since).and(refused)
    }

    /// The leader and its group, without looking for anybody else.
    pub(super) fn signal_group(&self, leader: &Leader, signal: c_int) -> io::Result<()> {
        leader.signal(|notice| {
            // The leader by itself only if it has left its group: nobody is to get a signal twice.
            let alone = match processes::group_of(self.id) {
                Some(group) if group == self.id => Ok(()),
                _ => notice.signal(signal),
            };
            alone.and(notice.signal_group(signal))
        })
    }

    /// Blocks until nobody is left, or until the deadline.
    pub(super) fn wait_empty(
        &self,
        leader: &Leader,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        // (An error means that it is gone, and we cannot say how.)
        if let Ok(None) = leader.wait(deadline) {
            return Ok(false);
        }
        loop {
            let Living { inside, outside, since } = self.living(leader)?;
            if inside.is_empty() && outside.is_empty() {
                return Ok(true);
            }
            for some in inside.chunks(AT_ONCE) {
                if !self.hold(leader, some, since)?.all().all(|member| member.wait(deadline)) {
                    return Ok(false);
                }
            }
            if !outside.iter().all(|member| member.wait(deadline)) {
                return Ok(false);
            }
        }
    }

    pub(super) fn processes(&self, leader: &Leader) -> io::Result<Vec<u32>> {
        let Living { inside, outside, .. } = self.living(leader)?;
        let mut all: Vec<i32> = ids(&outside).chain(inside).collect();
        // It may have left its group.
        if !all.contains(&self.id) && matches!(leader.try_wait(), Ok(None)) {
            all.push(self.id);
        }
        Ok(all.into_iter().map(|id| id as u32).collect())
    }

    /// Signals everybody once. Says who there was, and whether all outside the group could be signalled.
    fn signal_all(&self, leader: &Leader, signal: c_int) -> io::Result<(Found, io::Result<()>)> {
        let found = self.find(leader, Among::All, Vec::new());
        let group = self.signal_group(leader, signal);
        let found = found?;
        match group {
            // Those who live are met again by the caller.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            // Its ID may be another's, so it was left alone. Whoever could be found otherwise was.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {}
            group => group?,
        }
        let refused = send(&found.outside, signal);
        Ok((found, refused))
    }

    /// All members that live, but for a leader that has left its group. Those who are born meanwhile may be
    /// missing, but if there are any, then there is one.
    fn living(&self, leader: &Leader) -> io::Result<Living> {
        let newest = processes::newest();
        let Found { inside, outside, since, .. } = self.find(leader, Among::All, Vec::new())?;
        let mut living = Living { inside: Vec::new(), outside, since };
        for some in inside.chunks(AT_ONCE) {
            let seen = self.hold(leader, some, since)?;
            living.inside.extend(ids(&seen.inside));
            living.outside.extend(seen.left);
        }
        let Some(mut after) = newest.filter(|_| living.is_empty()) else { return Ok(living) };
        for _ in 0..PASSES {
            let look = self.look_at_new(leader, after, Vec::new(), &HashSet::new())?;
            let inside = ids(&look.joined).collect();
            living = Living { inside, outside: look.outside, since: look.since };
            if look.is_last || !living.is_empty() {
                return Ok(living);
            }
            after = look.newest;
        }
        Err(self.too_fast())
    }

    /// Those who were seen in the group, and live, wherever they are by now.
    fn hold(&self, leader: &Leader, seen: &[i32], since: Since) -> io::Result<Seen> {
        let mut held = Seen::default();
        let patience = Instant::now() + PATIENCE;
        for id in seen {
            let Some(one) = Held::open(*id)? else { continue };
            if one.group() == Some(self.id) {
                held.inside.push(Arc::new(one));
                continue;
            }
            let Some(one) = one.kept()? else { continue };
            let is_the_one = match &self.cookie {
                _ if one.is_older_than(since)? => true,
                Some(cookie) => processes::carries(*id, cookie, patience)?,
                None => false,
            };
            if is_the_one {
                held.left.push(Arc::new(one));
            }
        }
        held.inside.retain(|member| member.lives());
        held.left.retain(|member| member.lives());
        if !self.is_pinned(leader) {
            held.inside.clear();
        }
        // Nothing else may tell of them any more.
        self.hold_on_to(&held.left);
        Ok(held)
    }

    /// Finds those that are not known.
    fn find(&self, leader: &Leader, among: Among, mut known: Vec<Arc<Held>>) -> io::Result<Found> {
        let mut strays = self.strays();
        strays.retain(|stray| ids(&known).all(|id| id != stray.id()));
        known.append(&mut strays);
        let mut found = Found {
            inside: Vec::new(),
            known: known.len(),
            outside: known,
            gone: Vec::new(),
            since: Since::now(),
        };
        loop {
            let pinned = self.is_pinned(leader);
            if !pinned && self.cookie.is_none() {
                return Err(io::Error::other(format!(
                    "process {} was reaped by another part of this program, so its process group can \
                     no longer be told from others",
                    self.id
                )));
            }
            let group = pinned.then_some(self.id);
            found.since = Since::now();
            let census = match among {
                Among::All => processes::census(group, self.since)?,
                Among::New(after, newest) => {
                    processes::census_of_new(group, self.since, after, newest)?
                }
            };
            found.gone.clone_from(&census.gone);
            self.find_outside(among, &census, pinned, &mut found, Instant::now() + PATIENCE)?;
            // Nothing that was read of a group is worth anything if the ID was free meanwhile.
            if pinned == self.is_pinned(leader) {
                found.inside = census.group;
                // Those who are known and have come back are held already.
                let known: HashSet<i32> = ids(&found.outside).collect();
                found.inside.retain(|id| !known.contains(id));
                return Ok(found);
            }
        }
    }

    fn find_outside(
        &self,
        among: Among,
        census: &Census,
        pinned: bool,
        found: &mut Found,
        patience: Instant,
    ) -> io::Result<()> {
        // With the place in `outside` of those who are there.
        let mut members: HashMap<i32, Option<usize>> =
            census.group.iter().map(|id| (*id, None)).collect();
        members.extend(found.outside.iter().enumerate().map(|(i, held)| (held.id(), Some(i))));
        if pinned {
            members.insert(self.id, None);
        }
        let others = census.others.iter().copied();
        let mut rest: Vec<Other> =
            others.filter(|other| !members.contains_key(&other.id)).collect();
        let mut first = true;
        // A parent comes before its children, however the list is ordered.
        loop {
            let before = found.outside.len();
            let mut undecided = Vec::new();
            for other in rest {
                let parent = members.get(&other.parent).copied();
                if parent.is_none() && (!first || self.cookie.is_none()) {
                    undecided.push(other);
                    continue;
                }
                match self.judge(among, other, parent, &found.outside, patience)? {
                    Verdict::Member { held, is_stray } => {
                        let held = Arc::new(held);
                        if is_stray {
                            self.hold_on_to(std::slice::from_ref(&held));
                        }
                        members.insert(other.id, Some(found.outside.len()));
                        found.outside.push(held);
                    }
                    Verdict::Stranger => undecided.push(other),
                    Verdict::Gone => found.gone.push(other.id),
                }
            }
            first = false;
            rest = undecided;
            if found.outside.len() == before {
                return Ok(());
            }
        }
    }

    /// Holds a process if it is a member. If its parent is one, that is in the group, or at that place
    /// among those outside.
    fn judge(
        &self,
        among: Among,
        other: Other,
        parent: Option<Option<usize>>,
        outside: &[Arc<Held>],
        patience: Instant,
    ) -> io::Result<Verdict> {
        // Most are strangers, and need not be held to be told so. (If the ID has come to mean another
        // meanwhile, that one is new.)
        if let (None, Some(cookie), Among::All) = (parent, &self.cookie, among) {
            if !processes::carries(other.id, cookie, patience)? {
                return Ok(Verdict::Stranger);
            }
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Gone) };
        let Some(held) = held.kept()? else { return Ok(Verdict::Gone) };
        let parent_is_member = |place: Option<usize>| match place {
            Some(place) => outside.get(place).is_some_and(|parent| parent.lives()),
            None => other.parent == self.id || processes::group_of(other.parent) == Some(self.id),
        };
        let by_parent = match parent {
            Some(place) => held.parent()? == Some(other.parent) && parent_is_member(place),
            None => false,
        };
        let by_cookie = match &self.cookie {
            Some(cookie) => processes::carries(held.id(), cookie, patience)?,
            None => false,
        };
        Ok(match (held.lives(), by_parent || by_cookie) {
            (false, _) => Verdict::Gone,
            (true, true) => Verdict::Member { held, is_stray: !by_cookie },
            (true, false) => Verdict::Stranger,
        })
    }

    fn hold_on_to(&self, members: &[Arc<Held>]) {
        let mut strays = self.strays.lock();
        for member in members {
            if strays.iter().all(|stray| stray.id() != member.id()) {
                strays.push(Arc::clone(member));
            }
        }
    }

    /// Those that live.
    fn strays(&self) -> Vec<Arc<Held>> {
        let mut strays = self.strays.lock();
        strays.retain(|stray| stray.lives());
        strays.clone()
    }

    /// Whether the leader's ID is its own, and the group's.
    fn is_pinned(&self, leader: &Leader) -> bool {
        let mut its_own = false;
        let asked = leader.signal(|notice| {
            its_own = notice.has_its_id();
            Ok(())
        });
        asked.is_ok() && its_own
    }
}

fn ids(members: &[Arc<Held>]) -> impl Iterator<Item = i32> {
    members.iter().map(|member| member.id())
}
