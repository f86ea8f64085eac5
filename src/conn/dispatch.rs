//! From a PDU's ids to a typed handler: the table that a connection's `on_pdu` asks.
//!
//! Built once, shared by all connections of a kind. A look-up is a binary search in a sorted
//! table: no hash, no allocation. What a peer gets wrong is counted per connection, and has a
//! budget.

#![forbid(unsafe_code)]

use std::{error, fmt};

use prost::Message;

use super::Context;
use crate::pdu::{Header, Pdu};

/// A handler of one message: the connection's object, the application, the context, the PDU (for
/// its header, or to be sent on) and the message in it.
pub type Handler<C, A, M> = fn(&mut C, &mut A, &mut Context<'_, A>, &Pdu<'_>, M);

/// What is told of a PDU that reached no handler. The last argument says whether the connection's
/// budget is used up, and the connection closed.
pub type ErrorHook<C, A> = fn(&mut C, &mut A, &mut Context<'_, A>, &DispatchError, bool);

type Erased<C, A> =
    Box<dyn Fn(&mut C, &mut A, &mut Context<'_, A>, &Pdu<'_>) -> Result<(), prost::DecodeError>>;

/// Handlers by service id and command id, for connections whose object is a `C`.
///
/// ```
/// use std::rc::Rc;
/// use uring_netlib::conn::{Connection, Context, Dispatcher};
/// use uring_netlib::pdu::Pdu;
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Say {
///     #[prost(string, tag = "1")]
///     text: String,
/// }
///
/// struct App {
///     table: Rc<Dispatcher<Player, App>>,
/// }
///
/// struct Player;
///
/// impl Connection<App> for Player {
///     fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
///         Rc::clone(&app.table).dispatch(self, app, context, &pdu);
///     }
/// }
///
/// let table = Dispatcher::new().on(3, 1, |_: &mut Player, _: &mut App, context, pdu, say: Say| {
///     // The answer has the question's sequence number.
///     if context.reply(pdu, 2, &say).is_err() {
///         context.abort();
///     }
/// });
/// let app = App { table: Rc::new(table) };
/// # let _ = app;
/// ```
pub struct Dispatcher<C, A> {
    /// Sorted by the ids.
    entries: Vec<(u32, Erased<C, A>)>,
    errors_max: u32,
    hook: Option<ErrorHook<C, A>>,
}

impl<C, A> Dispatcher<C, A> {
    /// An empty table, with a budget of 3 errors and no hook.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Vec::new(), errors_max: 3, hook: None }
    }

    /// Adds a handler; the later of two for the same ids takes the place of the earlier.
    #[must_use]
    pub fn on<M: Message + Default + 'static>(
        mut self,
        service_id: u16,
        command_id: u16,
        handler: Handler<C, A, M>,
    ) -> Self
    where
        C: 'static,
        A: 'static,
    {
        let key = key(service_id, command_id);
        let erased: Erased<C, A> = Box::new(move |object, app, context, pdu| {
            let message = pdu.decode()?;
            handler(object, app, context, pdu, message);
            Ok(())
        });
        match self.entries.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(position) => self.entries[position].1 = erased,
            Err(position) => self.entries.insert(position, (key, erased)),
        }
        self
    }

    /// How many errors a connection may make before it is closed: the one that makes it this many
    /// closes. Default 3.
    #[must_use]
    pub fn errors_max(mut self, errors: u32) -> Self {
        self.errors_max = errors;
        self
    }

    /// Who is told of errors. Default nobody.
    #[must_use]
    pub fn on_error(mut self, hook: ErrorHook<C, A>) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Calls the handler of a PDU. One that is unknown, or whose body does not decode, is told to
    /// the hook; a connection that has used up its budget is closed.
    pub fn dispatch(
        &self,
        object: &mut C,
        app: &mut A,
        context: &mut Context<'_, A>,
        pdu: &Pdu<'_>,
    ) {
        let error = match pdu.header() {
            None => DispatchError::NoHeader,
            Some(header) => match self.find(header) {
                None => DispatchError::Unknown(header),
                Some(handler) => match handler(object, app, context, pdu) {
                    Ok(()) => return,
                    Err(source) => DispatchError::Undecodable(header, source),
                },
            },
        };
        let is_over = context.count_error() >= self.errors_max;
        if let Some(hook) = self.hook {
            hook(object, app, context, &error, is_over);
        }
        if is_over {
            context.close();
        }
    }

    fn find(&self, header: Header) -> Option<&Erased<C, A>> {
        let key = key(header.service_id, header.command_id);
        let position = self.entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&self.entries[position].1)
    }
}

impl<C, A> Default for Dispatcher<C, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, A> fmt::Debug for Dispatcher<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.entries.iter().map(|(key, _)| format!("{key:08x}"));
        f.debug_set().entries(keys).finish()
    }
}

/// Why a PDU reached no handler.
#[derive(Debug)]
#[non_exhaustive]
pub enum DispatchError {
    /// The framing of the connection has no service and command ids.
    NoHeader,
    /// There is no handler for the ids in this header.
    Unknown(Header),
    /// The body is no message of the kind that the ids stand for.
    Undecodable(Header, prost::DecodeError),
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("the PDU has no ids to find a handler by"),
            Self::Unknown(header) => {
                write!(f, "no handler for {}/{:#06x}", header.service_id, header.command_id)
            }
            Self::Undecodable(header, _) => {
                write!(f, "{}/{:#06x} has a bad body", header.service_id, header.command_id)
            }
        }
    }
}

impl error::Error for DispatchError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Undecodable(_, source) => Some(source),
            Self::NoHeader | Self::Unknown(_) => None,
        }
    }
}

fn key(service_id: u16, command_id: u16) -> u32 {
    u32::from(service_id) << 16 | u32::from(command_id)
}
