//! A child with children of its own, all of which are to be killed.

use super::contender::{Contender, Result, Tree, offered};
use super::system;
use std::thread;
use std::time::Duration;

const IN_THE_GROUP: &str = "sleep 1001";
const OUTSIDE: &str = "sleep 1002";
const SESSION: &str = "sleep 1001 & setsid sleep 1002 & wait";
const DAEMON: &str = "sleep 1001 & (setsid env -i sleep 1002 &); wait";

/// One that has left the session.
pub(crate) fn session<C: Contender>() -> Result<String> {
    kill::<C>(C::TREE, SESSION)
}

/// One that has emptied its environment as well, and whose parent has ended.
pub(crate) fn daemon<C: Contender>() -> Result<String> {
    kill::<C>(C::TREE, DAEMON)
}

/// The same, where nobody is to be able to leave.
pub(crate) fn complete<C: Contender>() -> Result<String> {
    kill::<C>(C::COMPLETE_TREE, DAEMON)
}

fn kill<C: Contender>(tree: Option<Tree<C::Handle>>, script: &str) -> Result<String> {
    let tree = offered(tree)?;
    let mut child = (tree.spawn)(&["sh", "-c", script])?;
    let all_run = || Ok(system::runs(IN_THE_GROUP)? && system::runs(OUTSIDE)?);
    if !system::within(Duration::from_secs(10), all_run)? {
        return Err("they have not started".into());
    }
    // Until those have ended whose children they were.
    thread::sleep(Duration::from_millis(300));
    (tree.kill)(&mut child)?;
    let none_runs = || Ok(!system::runs(IN_THE_GROUP)? && !system::runs(OUTSIDE)?);
    system::within(Duration::from_secs(2), none_runs)?;
    Ok(match (system::runs(IN_THE_GROUP)?, system::runs(OUTSIDE)?) {
        (false, false) => "nobody survives",
        (false, true) => "who has left the group survives",
        (true, false) => "who is in the group survives",
        (true, true) => "all survive",
    }
    .into())
}
