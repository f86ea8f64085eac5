//! The application of a test: it writes down every event and then runs the test's script.

use std::collections::BTreeMap;

use super::{CloseReason, Event, Handle, Netlib};

/// What a test does inside of callbacks. Callbacks cannot capture; this can.
type Script = Box<dyn FnMut(&mut App, &mut Netlib<App>, Handle, &Event<'_>)>;

/// The state that the `Netlib` lends to [`on_event`].
#[derive(Default)]
pub struct App {
    records: Vec<Record>,
    received: BTreeMap<Handle, Vec<u8>>,
    script: Option<Script>,
    /// Handles that the test has to close, in the order in which they became known.
    open: Vec<Handle>,
}

/// One event as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Connect,
    Confirm,
    /// Bytes delivered in a row; into how many chunks they were cut is nobody's business.
    Read(usize),
    Pdu(usize),
    Write,
    Close(CloseReason),
    Timer,
    /// Any number of calls in a row.
    Loop,
    /// What the test's script wrote down itself.
    Note(&'static str),
}

#[derive(Debug)]
struct Record {
    label: u64,
    handle: Handle,
    entry: Entry,
}

/// The callback of all tests.
pub fn on_event(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    app.write_down(net, handle, &event);
    if let Some(mut script) = app.script.take() {
        script(app, net, handle, &event);
        // Unless the script has put another one into its place.
        app.script.get_or_insert(script);
    }
}

impl App {
    /// Runs `script` after every event from now on.
    pub fn set_script(
        &mut self,
        script: impl FnMut(&mut Self, &mut Netlib<Self>, Handle, &Event<'_>) + 'static,
    ) {
        self.script = Some(Box::new(script));
    }

    /// Writes something down between the events of a handle.
    pub fn note(&mut self, net: &mut Netlib<Self>, handle: Handle, text: &'static str) {
        self.record(label_of(net, handle), handle, Entry::Note(text));
    }

    /// Counts a handle among those that the test closes at its end.
    pub fn own(&mut self, handle: Handle) -> Handle {
        if handle != Handle::NONE && !self.open.contains(&handle) {
            self.open.push(handle);
        }
        handle
    }

    /// The handles that the test knows of.
    pub fn known(&self) -> Vec<Handle> {
        self.open.clone()
    }

    /// The events of one handle.
    pub fn log_of(&self, handle: Handle) -> Vec<Entry> {
        let records = self.records.iter().filter(|record| record.handle == handle);
        records.map(|record| record.entry.clone()).collect()
    }

    /// All events, in the order in which they came.
    pub fn log(&self) -> Vec<Entry> {
        self.records.iter().map(|record| record.entry.clone()).collect()
    }

    /// The events of each handle with that user data, by the order of their first events.
    pub fn logs_by(&self, label: u64) -> Vec<Vec<Entry>> {
        self.handles_by(label).into_iter().map(|handle| self.log_of(handle)).collect()
    }

    /// The handles with that user data, in the order of their first events.
    pub fn handles_by(&self, label: u64) -> Vec<Handle> {
        let mut handles = Vec::new();
        for record in self.records.iter().filter(|record| record.label == label) {
            if !handles.contains(&record.handle) {
                handles.push(record.handle);
            }
        }
        handles
    }

    /// The events of all handles, by user data: the same on every backend, whereas the order of
    /// different sockets among each other is not.
    pub fn story(&self) -> BTreeMap<u64, Vec<Vec<Entry>>> {
        let mut labels: Vec<u64> = self.records.iter().map(|record| record.label).collect();
        labels.sort_unstable();
        labels.dedup();
        labels.into_iter().map(|label| (label, self.logs_by(label))).collect()
    }

    /// How many events are such.
    pub fn count(&self, is_such: impl Fn(&Entry) -> bool) -> usize {
        self.records.iter().filter(|record| is_such(&record.entry)).count()
    }

    /// The bytes that were delivered to a handle: in reads, or as whole PDUs.
    pub fn received(&self, handle: Handle) -> &[u8] {
        self.received.get(&handle).map_or(&[], Vec::as_slice)
    }

    /// Adds what was pulled.
    pub fn receive(&mut self, handle: Handle, bytes: &[u8]) {
        self.received.entry(handle).or_default().extend_from_slice(bytes);
    }

    fn write_down(&mut self, net: &mut Netlib<Self>, handle: Handle, event: &Event<'_>) {
        let entry = match event {
            Event::Connect { .. } => Entry::Connect,
            Event::Confirm => Entry::Confirm,
            Event::Read(bytes) => {
                self.receive(handle, bytes);
                Entry::Read(bytes.len())
            }
            Event::Pdu(pdu) => {
                self.receive(handle, pdu.frame());
                Entry::Pdu(pdu.frame().len())
            }
            Event::Write => Entry::Write,
            Event::Close(reason) => Entry::Close(*reason),
            Event::Timer { .. } => Entry::Timer,
            Event::Loop { .. } => Entry::Loop,
            other => panic!("an event that the tests do not know: {other:?}"),
        };
        let label = match event {
            Event::Timer { user_data, .. } | Event::Loop { user_data, .. } => *user_data,
            _ => label_of(net, handle),
        };
        self.own(handle);
        self.record(label, handle, entry);
    }

    fn record(&mut self, label: u64, handle: Handle, entry: Entry) {
        if let Entry::Read(more) = entry {
            let last = self.records.iter_mut().rfind(|record| record.handle == handle);
            if let Some(Record { entry: Entry::Read(len), .. }) = last {
                *len += more;
                return;
            }
        }
        let is_repeated = self.records.last().is_some_and(|last| {
            entry == Entry::Loop && (last.label, &last.entry) == (label, &entry)
        });
        if !is_repeated {
            self.records.push(Record { label, handle, entry });
        }
    }
}

fn label_of(net: &mut Netlib<App>, handle: Handle) -> u64 {
    net.option(handle).map_or(0, |option| option.user_data())
}
