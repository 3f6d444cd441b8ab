//! Windows: a job object.
//!
//! The child is created suspended, joins the job, and is let go of: so all that it starts is born in the job,
//! too. Nobody leaves it, since it does not allow that. A process may be in several jobs, one within the
//! other, so a tree within a tree is in both.
//!
//! std gives no handle of the child's first thread, which is therefore found among all threads. A child that
//! cannot be let go of has done nothing yet, and is terminated. So is one whose parent dies in the midst of it:
//! until the child has begun, every job kills when it is closed. (Between its creation and the job there is a
//! gap. Only a list of jobs that is given to CreateProcess would close it, which std does not offer.)
//!
//! A job sends messages when somebody exits, but the system does not promise that they arrive. So it is asked
//! how many are left, and those are waited for. Process IDs are only ever the way to a handle, and the handle is then asked
//! whether it means a member: the ID may have been another's when it was opened.
//!
//! Sources: Job Objects, Nested Jobs, JOBOBJECT_BASIC_LIMIT_INFORMATION, Process Creation Flags and Taking a
//! Snapshot of the Win32 documentation.

use super::{Contain, Containment, Leader, Mechanism, One, Spawned, Wanted};
use crate::backoff::Backoff;
use crate::sys::{Ask, is_signalled, wait_for_any};
use crate::usage::Usage;
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command};
use std::time::Instant;
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, ERROR_MORE_DATA, ERROR_NO_MORE_FILES, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, IsProcessInJob, JOB_OBJECT_LIMIT,
    JOB_OBJECT_LIMIT_ACTIVE_PROCESS, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK,
    JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, JOBOBJECT_BASIC_PROCESS_ID_LIST,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JOBOBJECTINFOCLASS, JobObjectBasicAccountingInformation,
    JobObjectBasicProcessIdList, JobObjectExtendedLimitInformation, QueryInformationJobObject,
    SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_SUSPENDED, GetProcessIdOfThread, OpenProcess, OpenThread,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, ResumeThread,
    THREAD_QUERY_LIMITED_INFORMATION, THREAD_SUSPEND_RESUME,
};

/// What only some systems offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    /// The caller's own.
    pub(crate) creation_flags: u32,
}

/// A job has members that live. It need not be known which.
pub(crate) struct Survivor;

pub(crate) struct Members {
    job: Job,
}

pub(crate) fn spawn(wanted: &Wanted, command: &mut Command) -> io::Result<Spawned> {
    let is_tree = wanted.tree;
    let own_flags = wanted.system.creation_flags;
    if !is_tree && !wanted.kill_with_parent {
        // Without any, those that the command may have are to stay.
        if own_flags != 0 {
            command.creation_flags(own_flags);
        }
        let child = command.spawn()?;
        let can_be_asked = Ask::reaches(own_flags);
        return Ok(Spawned { child, from_child: None, members: None, is_tree, can_be_asked });
    }
    let job = Job::create(wanted)?;
    let flags = own_flags | if is_tree { CREATE_NEW_PROCESS_GROUP } else { 0 };
    command.creation_flags(flags | CREATE_SUSPENDED);
    let spawned = command.spawn();
    // Whoever spawns the command next may not know how to resume the child.
    command.creation_flags(own_flags);
    // Who wants it suspended is who resumes it.
    let child = start(spawned?, &job, own_flags & CREATE_SUSPENDED == 0)?;
    let can_be_asked = Ask::reaches(flags);
    Ok(Spawned { child, from_child: None, members: Some(Members { job }), is_tree, can_be_asked })
}

/// Lets a suspended child begin, as a member of the job. If that cannot be, it is gone.
fn start(mut child: Child, job: &Job, to_be_resumed: bool) -> io::Result<Child> {
    let started = job
        .admit(&child)
        .and_then(|()| if to_be_resumed { resume(&child) } else { Ok(()) })
        .and_then(|()| job.has_begun());
    if started.is_err() {
        // Whatever it has come to. It may not be in the job.
        let _ = job.kill();
        // Had this failed, the wait might not end.
        if child.kill().is_ok() {
            let _ = child.wait();
        }
    }
    started.map(|()| child)
}

impl Contain for Members {
    fn pins_the_leader(&self) -> bool {
        false
    }

    fn kill(trees: &[One<'_, Self>]) -> Vec<io::Result<()>> {
        trees.iter().map(|(members, _)| members.job.kill()).collect()
    }

    fn kill_at_once(&self, _: &Leader) -> bool {
        self.job.kill().is_err()
    }

    fn ask(trees: &[One<'_, Self>], ask: Ask) -> Vec<io::Result<bool>> {
        // A group has the ID of its leader. No other process gets the ID while there is a handle of the leader, even if the
        // leader has exited; and the leader is borrowed here.
        trees
            .iter()
            .map(|(_, leader)| Ok(ask.send(leader.with_child(|child| child.id()))))
            .collect()
    }

    fn wait_empty(trees: &[One<'_, Self>], deadline: Option<Instant>) -> Vec<io::Result<bool>> {
        trees.iter().map(|(members, _)| members.job.wait_empty(deadline)).collect()
    }

    fn survivors(trees: &[One<'_, Self>]) -> Vec<io::Result<Option<Survivor>>> {
        let survivor =
            |members: &Self| Ok(Some(Survivor).filter(|_| members.job.active().unwrap_or(0) > 0));
        trees.iter().map(|(members, _)| survivor(members)).collect()
    }

    fn processes(&self, _: &Leader) -> io::Result<Vec<u32>> {
        self.job.ids()
    }

    fn containment(&self) -> Containment {
        Containment::Complete { by: Mechanism::JobObject }
    }

    /// (A job counts what is committed, not what is resident, so the two would not be about the same.)
    fn usage(&self) -> Option<Usage> {
        None
    }

    fn outlives_the_handle(&self) -> bool {
        self.job.kills_on_close()
    }

    fn leader_is_gone(&self) {}

    fn done(&self) {}
}

/// A job without a name, whose handle no child inherits. To drop it kills nobody.
struct Job {
    handle: OwnedHandle,
    limits: JOB_OBJECT_LIMIT,
}

impl Job {
    /// Blocks until no member is left (`true`), or until the deadline.
    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut pause = Backoff::new();
        while self.active()? > 0 {
            // As long as a single one lives, so does the tree: it does not matter which one is waited for.
            let mut members = self.ids()?.into_iter().filter_map(|id| self.member(id));
            let goes_on = match members.find(lives) {
                Some(member) => {
                    pause = Backoff::new();
                    wait_for_any(&[member.as_handle()], deadline)?
                }
                // The members that are left cannot be opened, or have exited and still count.
                None => pause.sleep(deadline),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn create(wanted: &Wanted) -> io::Result<Self> {
        // SAFETY: without attributes, and without a name.
        let handle = unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) };
        if handle.is_null() {
            return Err(last_error("cannot create a job object"));
        }
        // SAFETY: it was just opened, and belongs to nobody else.
        let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
        let mut limits = 0;
        if wanted.kill_with_parent {
            limits |= JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        }
        if !wanted.tree {
            // What a single child starts is its own business, whether or not it asks for that.
            limits |= JOB_OBJECT_LIMIT_BREAKAWAY_OK | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
        }
        let job = Self { handle, limits };
        job.set_limits(limits | JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, 0)?;
        Ok(job)
    }

    /// From here on it kills when it is closed only if that is wanted.
    fn has_begun(&self) -> io::Result<()> {
        if self.kills_on_close() { Ok(()) } else { self.set_limits(self.limits, 0) }
    }

    fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }

    fn kills_on_close(&self) -> bool {
        self.limits & JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE != 0
    }

    fn admit(&self, child: &Child) -> io::Result<()> {
        // SAFETY: both handles are open for as long as they are borrowed.
        if unsafe { AssignProcessToJobObject(self.raw(), child.as_raw_handle()) } == 0 {
            return Err(last_error("cannot put the child into a job object"));
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        // First nobody may come any more. A member that is in the middle of starting a process when it is
        // terminated would leave that behind, suspended for ever. The member itself is counted until its
        // last thread is gone, so the new one is one too many. If this is refused, the rest is still worth
        // doing; and it stays so, since the tree is at its end.
        let _ = self.set_limits(self.limits | JOB_OBJECT_LIMIT_ACTIVE_PROCESS, 1);
        // The exit code is the one that std's `Child::kill` gives.
        // SAFETY: the handle is open for as long as it is borrowed.
        if unsafe { TerminateJobObject(self.raw(), 1) } == 0 {
            return Err(last_error("cannot terminate the job object of a tree"));
        }
        Ok(())
    }

    fn set_limits(&self, flags: JOB_OBJECT_LIMIT, active_processes: u32) -> io::Result<()> {
        let mut information = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        information.BasicLimitInformation.LimitFlags = flags;
        information.BasicLimitInformation.ActiveProcessLimit = active_processes;
        // SAFETY: the handle is open for as long as it is borrowed. The struct is the one that belongs to
        // this class, is of this size, and outlives the call.
        let set = unsafe {
            SetInformationJobObject(
                self.raw(),
                JobObjectExtendedLimitInformation,
                (&raw const information).cast(),
                size_of_val(&information) as u32,
            )
        };
        if set == 0 { Err(last_error("cannot set the limits of a job object")) } else { Ok(()) }
    }

    /// How many there are.
    fn active(&self) -> io::Result<u32> {
        let mut information = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
        let size = size_of_val(&information);
        // SAFETY: the struct is the one that belongs to this class, and of this size.
        unsafe {
            self.query(JobObjectBasicAccountingInformation, (&raw mut information).cast(), size)
        }
        .map_err(|error| explain(error, "cannot ask a job object how many are in it"))?;
        Ok(information.ActiveProcesses)
    }

    /// Those in it, and in the jobs within it.
    fn ids(&self) -> io::Result<Vec<u32>> {
        const HEAD: usize =
            offset_of!(JOBOBJECT_BASIC_PROCESS_ID_LIST, ProcessIdList) / size_of::<usize>();
        let mut room = 16;
        loop {
            let mut list = vec![0_usize; HEAD + room];
            let size = size_of_val(&*list);
            let start = list.as_mut_ptr();
            // SAFETY: the buffer is of this size, and made of what the list that belongs to this class is
            // made of: its IDs are words, and so many words come before them.
            let answer = unsafe { self.query(JobObjectBasicProcessIdList, start.cast(), size) };
            match answer {
                Ok(()) => {
                    // SAFETY: the buffer has room for a list with an ID more than none, is aligned for it
                    // (words are its largest fields), and was filled with integers.
                    let head = unsafe { start.cast::<JOBOBJECT_BASIC_PROCESS_ID_LIST>().read() };
                    let ids = list[HEAD..].iter().take(head.NumberOfProcessIdsInList as usize);
                    // They have 32 bits.
                    return Ok(ids.map(|id| *id as u32).collect());
                }
                Err(error) if error.raw_os_error() == Some(ERROR_MORE_DATA as i32) => room *= 2,
                Err(error) => return Err(explain(error, "cannot list who is in a job object")),
            }
        }
    }

    /// # Safety
    ///
    /// `information` points to so many bytes that may be written, and are what belongs to this class.
    unsafe fn query(
        &self,
        class: JOBOBJECTINFOCLASS,
        information: *mut c_void,
        size: usize,
    ) -> io::Result<()> {
        let told = std::ptr::null_mut();
        // SAFETY: the handle is open for as long as it is borrowed; the rest is up to the caller.
        let answered =
            unsafe { QueryInformationJobObject(self.raw(), class, information, size as u32, told) };
        if answered == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A handle of the process with this ID, if it is a member and may be opened.
    fn member(&self, id: u32) -> Option<OwnedHandle> {
        const ACCESS: u32 = PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION;
        // SAFETY: integers only; the handle is not inherited.
        let process = unsafe { OpenProcess(ACCESS, 0, id) };
        if process.is_null() {
            return None;
        }
        // SAFETY: it was just opened, and belongs to nobody else.
        let process = unsafe { OwnedHandle::from_raw_handle(process) };
        let mut is_member = 0;
        // SAFETY: both handles are open for as long as they are borrowed, and the answer outlives the call.
        let asked =
            unsafe { IsProcessInJob(process.as_raw_handle(), self.raw(), &raw mut is_member) };
        (asked != 0 && is_member != 0).then_some(process)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // The handle is closed after this, and by then that must not kill. (Only the end of this process
        // closes it without coming here.)
        let limits = self.limits & !JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        if self.kills_on_close() && self.set_limits(limits, 0).is_err() {
            // Left open: those in it then die with this process, but not before.
            let _ = self.handle.try_clone().map(IntoRawHandle::into_raw_handle);
        }
    }
}

fn lives(process: &OwnedHandle) -> bool {
    is_signalled(process.as_handle()).is_ok_and(|exited| !exited)
}

/// Lets go of a child that was created suspended.
fn resume(child: &Child) -> io::Result<()> {
    let id = child.id();
    let mut resumed = false;
    for thread in threads_of(id)? {
        resumed |= resume_thread(thread, id)?;
    }
    if resumed {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("cannot resume child process {id}: the system lists no thread of it"),
    ))
}

/// The IDs of a process's threads. There are others than the first one if somebody has put them there.
fn threads_of(process: u32) -> io::Result<Vec<u32>> {
    // SAFETY: integers only.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(last_error("cannot resume the child: no snapshot of the threads"));
    }
    // SAFETY: it was just opened, and belongs to nobody else.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = THREADENTRY32::default();
    let mut threads = Vec::new();
    let mut next: unsafe extern "system" fn(HANDLE, *mut THREADENTRY32) -> _ = Thread32First;
    loop {
        entry.dwSize = size_of::<THREADENTRY32>() as u32;
        // SAFETY: the snapshot is open. The entry says its size, and outlives the call.
        if unsafe { next(snapshot.as_raw_handle(), &raw mut entry) } == 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(ERROR_NO_MORE_FILES as i32) {
                return Ok(threads);
            }
            return Err(explain(error, "cannot resume the child: no list of the threads"));
        }
        if entry.th32OwnerProcessID == process {
            threads.push(entry.th32ThreadID);
        }
        next = Thread32Next;
    }
}

/// Says whether the thread is there. It may have ended, and its ID be that of another process's thread.
fn resume_thread(id: u32, process: u32) -> io::Result<bool> {
    const ACCESS: u32 = THREAD_SUSPEND_RESUME | THREAD_QUERY_LIMITED_INFORMATION;
    // SAFETY: integers only; the handle is not inherited.
    let thread = unsafe { OpenThread(ACCESS, 0, id) };
    if thread.is_null() {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(code) if code == ERROR_INVALID_PARAMETER as i32 => Ok(false),
            _ => Err(explain(error, "cannot resume the child: its thread cannot be opened")),
        };
    }
    // SAFETY: it was just opened, and belongs to nobody else.
    let thread = unsafe { OwnedHandle::from_raw_handle(thread) };
    // The ID of the process is its own, since there is a handle of it. So is the thread, while it is open.
    // SAFETY: the handle is open.
    if unsafe { GetProcessIdOfThread(thread.as_raw_handle()) } != process {
        return Ok(false);
    }
    // To resume a thread that runs does nothing.
    // SAFETY: the handle is open.
    if unsafe { ResumeThread(thread.as_raw_handle()) } == u32::MAX {
        return Err(last_error("cannot resume the child"));
    }
    Ok(true)
}

fn last_error(what: &str) -> io::Error {
    explain(io::Error::last_os_error(), what)
}

fn explain(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn suspended() -> (Child, OwnedHandle) {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        let child = command.creation_flags(CREATE_SUSPENDED).spawn().expect("to spawn");
        let process = child.as_handle().try_clone_to_owned().expect("a handle");
        (child, process)
    }

    #[test]
    fn a_child_that_cannot_join_is_gone() {
        let (child, process) = suspended();
        let file = File::open(std::env::current_exe().expect("a path")).expect("a file");
        let no_job = Job { handle: file.into(), limits: 0 };
        let error = start(child, &no_job, true).unwrap_err();
        assert!(error.to_string().contains("job object: "), "{error}");
        assert!(!lives(&process));
    }

    #[test]
    fn a_child_that_cannot_be_resumed_is_gone() {
        let job = Job::create(&Wanted { tree: true, ..Wanted::default() }).expect("a job");
        let (mut child, process) = suspended();
        child.kill().expect("to kill");
        child.wait().expect("to wait");
        assert!(resume(&child).unwrap_err().to_string().contains("no thread"));
        start(child, &job, true).unwrap_err();
        assert!(!lives(&process));
        assert_eq!(job.active().expect("an answer"), 0);
    }
}
