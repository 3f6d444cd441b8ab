//! Promise: a task on any executor can await an exit, and any number of tasks can, with or without a deadline. Futures
//! and wakers that are dropped, or that panic, harm neither the child nor another task.

use crate::common::executor::*;
use crate::common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

mod deadlines;
mod executors;
mod exits;
mod faults;
mod notices;
mod resources;
mod stops;
mod wakers;
