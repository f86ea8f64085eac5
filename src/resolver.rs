//! Host names to addresses, off the loop's thread.
//!
//! A few threads, started when needed, call the system's resolver, which blocks for as long as it
//! likes. The loop's own deadline decides how long an answer is waited for; a late one is dropped
//! with its stale handle.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::driver::Waker;
use crate::event::Handle;

#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    waker: Waker,
    /// Questions without an answer yet.
    pending: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    has_question: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    questions: VecDeque<Question>,
    answers: Vec<Answer>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

#[derive(Debug)]
struct Question {
    handle: Handle,
    name: String,
    port: u16,
    deadline: Instant,
}

/// What a name resolved to: nothing, where it has no address.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) handle: Handle,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Resolver {
    pub(crate) fn new(waker: Waker) -> Self {
        Self { shared: Arc::default(), waker, pending: 0 }
    }

    /// Asks; whether the question was taken. It is not when too many wait, or no thread can be had.
    /// One that has waited for as long as `limit` is not worked on any more.
    pub(crate) fn ask(
        &mut self,
        handle: Handle,
        (name, port): (String, u16),
        limit: Duration,
    ) -> bool {
        let deadline = Instant::now() + limit.min(LIMIT_MAX);
        let mut queue = self.shared.lock();
        if queue.questions.len() >= QUESTIONS_MAX {
            return false;
        }
        if queue.idle <= queue.questions.len() && queue.threads < THREADS_MAX {
            let (shared, waker) = (Arc::clone(&self.shared), self.waker.clone());
            let thread = thread::Builder::new().name("netlib-resolver".to_owned());
            match thread.spawn(move || shared.serve(&waker)) {
                Ok(_) => queue.threads += 1,
                Err(_) if queue.threads == 0 => return false,
                Err(_) => {}
            }
        }
        queue.questions.push_back(Question { handle, name, port, deadline });
        self.pending += 1;
        self.shared.has_question.notify_one();
        true
    }

    /// Whether answers may have come.
    pub(crate) const fn is_asked(&self) -> bool {
        self.pending > 0
    }

    /// The answers that have come.
    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        let answers = std::mem::take(&mut self.shared.lock().answers);
        self.pending -= answers.len();
        answers
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // A thread in the middle of a question ends after it; nobody waits for that.
        self.shared.lock().is_closed = true;
        self.shared.has_question.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that may panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, waker: &Waker) {
        while let Some(question) = self.next_question() {
            let Question { handle, name, port, deadline } = question;
            let mut addresses = Vec::new();
            if Instant::now() < deadline
                && let Ok(resolved) = (name.as_str(), port).to_socket_addrs()
            {
                addresses.extend(resolved);
            }
            self.lock().answers.push(Answer { handle, addresses });
            waker.wake();
        }
    }

    /// The next question; `None` when this thread is needed no more.
    fn next_question(&self) -> Option<Question> {
        let mut queue = self.lock();
        loop {
            if queue.is_closed {
                queue.threads -= 1;
                return None;
            }
            if let Some(question) = queue.questions.pop_front() {
                return Some(question);
            }
            queue.idle += 1;
            let (woken, timeout) = self
                .has_question
                .wait_timeout(queue, IDLE_TIME)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if timeout.timed_out() && queue.questions.is_empty() {
                queue.threads -= 1;
                return None;
            }
        }
    }
}

/// Names resolved at the same time.
const THREADS_MAX: usize = 4;

/// Names that may wait to be resolved.
const QUESTIONS_MAX: usize = 1024;

/// A limit that is as good as none.
const LIMIT_MAX: Duration = Duration::from_secs(1 << 20);

/// How long a thread without questions stays.
const IDLE_TIME: Duration = Duration::from_secs(10);
