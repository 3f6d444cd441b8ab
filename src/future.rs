//! Futures over the same waits, for any executor.
//!
//! A poll checks the child and, if it still runs, registers the task's waker with the background thread
//! (`reaper.rs`). A wake-up is only a reason to check again: the status always comes from
//! [`SharedChild::try_wait`].

use crate::SharedChild;
use crate::backoff::{Backoff, LONGEST};
use crate::reaper::{self, Answer, Wake};
use crate::stop::{self, Stop};
use crate::sys::Request;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Resolves to the child's exit status: the future of [`SharedChild::wait_async`].
///
/// Any executor may poll it, from any thread, and it may move between them. Dropping it removes its registration and
/// leaves the child alone. Polled again after it was ready, it returns the same result.
///
/// # Examples
///
/// See [`SharedChild::wait_async`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct WaitFuture<'a> {
    child: &'a SharedChild,
    registration: Registration,
    /// The delays between polls of a child whose exit cannot be notified.
    backoff: Backoff,
}

enum Registration {
    None,
    /// The task is woken when the child exits.
    Exit(Wake),
    /// The task was woken by the exit. If the child is not reapable yet, the next step is a delay.
    Notified,
    /// The task is woken after a delay: no notification is possible, or it came before the child was reapable (see
    /// `Backoff`).
    Delay(Wake),
}

impl<'a> WaitFuture<'a> {
    fn new(child: &'a SharedChild) -> Self {
        Self { child, registration: Registration::None, backoff: Backoff::new() }
    }

    /// Registers the task for the next reason to check the child. Returns `Ready` if there has been one since the last
    /// check, which precedes this call.
    fn register(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.registration {
            Registration::None => {
                let Some(notice) = self.child.notice() else { return Poll::Ready(()) };
                match reaper::at_exit(&notice, cx.waker()) {
                    Answer::Will(wake) => self.registration = Registration::Exit(wake),
                    Answer::CannotTell => self.register_delay(cx),
                    Answer::NoThread => self.block_for_delay(cx),
                }
                Poll::Pending
            }
            Registration::Exit(wake) if reaper::renew(*wake, cx.waker()) => Poll::Pending,
            Registration::Exit(_) => {
                self.registration = Registration::Notified;
                Poll::Ready(())
            }
            Registration::Notified => {
                self.register_delay(cx);
                Poll::Pending
            }
            Registration::Delay(wake) if reaper::renew(*wake, cx.waker()) => Poll::Pending,
            Registration::Delay(_) => {
                self.registration = Registration::None;
                Poll::Ready(())
            }
        }
    }

    fn register_delay(&mut self, cx: &mut Context<'_>) {
        match reaper::at(Instant::now() + self.backoff.next(), cx.waker()) {
            Some(wake) => self.registration = Registration::Delay(wake),
            None => self.block_for_delay(cx),
        }
    }

    /// Blocks for a moment and wakes the task at once. Without the background thread nothing else can wake it, and to
    /// block the executor for a moment is better than to spin.
    fn block_for_delay(&mut self, cx: &mut Context<'_>) {
        self.registration = Registration::None;
        crate::sync::sleep(self.backoff.next());
        cx.waker().wake_by_ref();
    }

    /// Whether the last poll, which returned `Pending`, has blocked for its delay.
    fn has_blocked(&self) -> bool {
        matches!(self.registration, Registration::None)
    }

    fn deregister(&mut self) {
        if let Registration::Exit(wake) | Registration::Delay(wake) =
            std::mem::replace(&mut self.registration, Registration::None)
        {
            reaper::forget(wake);
        }
    }
}

impl Future for WaitFuture<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Some(result) = this.child.try_wait().transpose() {
                this.deregister();
                return Poll::Ready(result);
            }
            if this.register(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for WaitFuture<'_> {
    fn drop(&mut self) {
        self.deregister();
    }
}

impl fmt::Debug for WaitFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFuture").field("child", self.child).finish_non_exhaustive()
    }
}

/// Resolves when the child has exited or a deadline has passed: the future of [`SharedChild::wait_deadline_async`] and
/// [`SharedChild::wait_timeout_async`].
///
/// Apart from the deadline it is like [`WaitFuture`].
///
/// # Examples
///
/// See [`SharedChild::wait_deadline_async`].
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Debug)]
pub struct WaitDeadlineFuture<'a> {
    wait: WaitFuture<'a>,
    /// `None` if the deadline is too far away for the clock.
    deadline: Option<Timer>,
}

impl<'a> WaitDeadlineFuture<'a> {
    fn new(child: &'a SharedChild, deadline: Option<Instant>) -> Self {
        Self { wait: WaitFuture::new(child), deadline: deadline.map(Timer::new) }
    }

    fn deregister(&mut self) {
        self.wait.deregister();
        if let Some(deadline) = &mut self.deadline {
            deadline.deregister();
        }
    }
}

impl Future for WaitDeadlineFuture<'_> {
    type Output = io::Result<Option<ExitStatus>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if !this.deadline.as_ref().is_some_and(Timer::has_passed) {
            if let Poll::Ready(result) = Pin::new(&mut this.wait).poll(cx) {
                this.deregister();
                return Poll::Ready(result.map(Some));
            }
            let Some(deadline) = &mut this.deadline else { return Poll::Pending };
            // A wait that has blocked is polled again at once, and the deadline is compared then.
            if this.wait.has_blocked() || Pin::new(deadline).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        // Check after the deadline: a child that has exited by then counts as exited.
        this.deregister();
        Poll::Ready(this.wait.child.try_wait())
    }
}

impl SharedChild {
    /// Waits for the child to exit without blocking a thread, and returns its status: [`wait`](Self::wait) as a future
    /// for any executor.
    ///
    /// Any number of tasks may await a child while threads wait for it and others kill it. Dropping the future leaves
    /// the child running; it can be awaited again. The future borrows the handle, so a task that must own the handle
    /// holds it in an [`Arc`](std::sync::Arc).
    ///
    /// One background thread wakes the tasks for all children. It starts when it is first needed and ends a second after
    /// it was last needed. If it cannot be started, each poll blocks for up to 20 ms instead. A child without a
    /// descriptor has a helper thread too, until it exits. A waker that blocks delays that thread and every task that it
    /// serves. To be woken by the reactor of an executor instead, register an [`ExitNotice`](crate::ExitNotice) there.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// # smol_like::block_on(async {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// assert!(child.wait_async().await?.success());
    /// # Ok(())
    /// # })
    /// # }
    /// # mod smol_like {
    /// #     pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    /// #         struct Unpark(std::thread::Thread);
    /// #         impl std::task::Wake for Unpark {
    /// #             fn wake(self: std::sync::Arc<Self>) { self.0.unpark(); }
    /// #         }
    /// #         let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    /// #         let mut future = std::pin::pin!(future);
    /// #         loop {
    /// #             let mut cx = std::task::Context::from_waker(&waker);
    /// #             if let std::task::Poll::Ready(answer) = future.as_mut().poll(&mut cx) { return answer; }
    /// #             std::thread::park();
    /// #         }
    /// #     }
    /// # }
    /// ```
    ///
    /// With tokio, a task can kill the child that it waits for, because nothing is borrowed mutably:
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
    /// # fn main() -> std::io::Result<()> {
    /// use shared_child::SharedChild;
    /// use std::process::Command;
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
    /// let child = SharedChild::spawn(Command::new("sleep").arg("1000"))?;
    /// let status = tokio::select! {
    ///     status = child.wait_async() => status?,
    ///     () = tokio::time::sleep(Duration::from_millis(10)) => {
    ///         child.kill()?;
    ///         child.wait_async().await?
    ///     }
    /// };
    /// assert!(!status.success());
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
    /// # fn main() {}
    /// ```
    pub fn wait_async(&self) -> WaitFuture<'_> {
        WaitFuture::new(self)
    }

    /// Like [`wait_async`](Self::wait_async), but resolves to `Ok(None)` if the child still runs at `deadline`:
    /// [`wait_deadline`](Self::wait_deadline) as a future.
    ///
    /// It needs no timer of an executor: the background thread keeps the time too.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::{Duration, Instant};
    ///
    /// async fn run_for_a_minute_at_most(child: &SharedChild) -> std::io::Result<()> {
    ///     let deadline = Instant::now() + Duration::from_secs(60);
    ///     match child.wait_deadline_async(deadline).await? {
    ///         Some(status) => println!("{status}"),
    ///         None => child.kill()?,
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = run_for_a_minute_at_most;
    /// ```
    pub fn wait_deadline_async(&self, deadline: Instant) -> WaitDeadlineFuture<'_> {
        WaitDeadlineFuture::new(self, Some(deadline))
    }

    /// Like [`wait_async`](Self::wait_async), but resolves to `Ok(None)` if the child still runs after `timeout`, counted
    /// from this call: [`wait_timeout`](Self::wait_timeout) as a future.
    ///
    /// A timeout that is too long for the clock is no limit.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::Duration;
    ///
    /// async fn run_for_a_minute_at_most(child: &SharedChild) -> std::io::Result<()> {
    ///     if child.wait_timeout_async(Duration::from_secs(60)).await?.is_none() {
    ///         child.kill()?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = run_for_a_minute_at_most;
    /// ```
    pub fn wait_timeout_async(&self, timeout: Duration) -> WaitDeadlineFuture<'_> {
        WaitDeadlineFuture::new(self, Instant::now().checked_add(timeout))
    }

    /// Requests the child to terminate, waits for up to `grace`, then kills it, without blocking a thread:
    /// [`stop`](Self::stop) as a future. If the child leads a [tree](Self::tree), stops the whole tree.
    ///
    /// If the future is dropped after its first poll, the child has received the request and is not killed; the grace
    /// counts for later stops of the child.
    ///
    /// The exit of the child wakes the task, as with [`wait_async`](Self::wait_async). A tree whose leader has exited
    /// while other members run is polled, with delays of up to 100 ms. On Unix each poll and kill of a tree makes system
    /// calls for each process of the machine, unless containment is complete: usually a matter of milliseconds, during
    /// which the task blocks its executor. A kill takes up to 2 s if processes are in the middle of an exec for so long
    /// (see [`Tree::kill`](crate::Tree::kill)). If that matters, call [`stop`](Self::stop) on a thread that may block.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Self::stop).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::Duration;
    ///
    /// async fn end(child: &SharedChild) -> std::io::Result<()> {
    ///     let status = child.stop_async(Duration::from_secs(5)).await?;
    ///     println!("it ended with {status}");
    ///     Ok(())
    /// }
    /// # let _ = end;
    /// ```
    pub async fn stop_async(&self, grace: Duration) -> io::Result<ExitStatus> {
        let mut stop = Stop::begin([self], Request::DEFAULT, grace);
        while let Some((_, until)) = stop.pending() {
            let ended = self.ended_by(until).await;
            // The grace of a tree that cannot be scanned ends with its leader.
            if ended.is_err() {
                let _ = self.exited_by(until).await;
            }
            stop.advance(vec![ended]);
        }
        stop.result()?;
        self.exited_by(stop::killed_by()).await?;
        self.try_wait()?.ok_or_else(|| stop::has_not_ended(self))
    }

    /// Waits until the child has exited or the deadline has passed.
    async fn exited_by(&self, deadline: Option<Instant>) -> io::Result<()> {
        WaitDeadlineFuture::new(self, deadline).await.map(drop)
    }

    /// Waits until the child or its whole tree has ended (`true`), or the deadline has passed.
    async fn ended_by(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut delay = Duration::from_millis(1);
        while !self.has_ended_by(Some(Instant::now()))? {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(false);
            }
            if self.try_wait()?.is_none() {
                self.exited_by(deadline).await?;
                continue;
            }
            // The leader has exited and other members run, whose exits are not notified.
            let next = now + delay;
            Timer::new(deadline.map_or(next, |deadline| deadline.min(next))).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        Ok(true)
    }
}

/// The longest delay between two polls of a tree.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// Resolves at a point in time.
#[derive(Debug)]
struct Timer {
    at: Instant,
    wake: Option<Wake>,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { at, wake: None }
    }

    fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    fn deregister(&mut self) {
        if let Some(wake) = self.wake.take() {
            reaper::forget(wake);
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let left = this.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            this.deregister();
            return Poll::Ready(());
        }
        if this.wake.is_some_and(|wake| reaper::renew(wake, cx.waker())) {
            return Poll::Pending;
        }
        this.wake = reaper::at(this.at, cx.waker());
        if this.wake.is_none() {
            // There is no background thread: block for a moment instead.
            crate::sync::sleep(left.min(LONGEST));
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.deregister();
    }
}
