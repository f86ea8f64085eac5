//! TeamTalk's messages, as far as the programs speak them, and the one table of their ids.
//!
//! Values only. The fields follow proto2: a required one is always on the wire, and a decoder that
//! misses it reads its default. `tests/golden.rs` compares them with captured PDUs.

#![forbid(unsafe_code)]

use prost::{Enumeration, Message};
use uring_netlib::conn::{Dispatcher, Handler};
use uring_netlib::pdu::Header;

/// A message that is a PDU's body, with the ids that its header has.
pub trait Command: Message + Default + 'static {
    /// The group of commands.
    const SERVICE_ID: u16;
    /// The command.
    const COMMAND_ID: u16;

    /// The header of such a PDU that nobody asked for: its sequence number is 0.
    #[must_use]
    fn header() -> Header {
        Header::new(Self::SERVICE_ID, Self::COMMAND_ID)
    }
}

/// The table of ids.
macro_rules! commands {
    ($($message:ident $service_id:literal $command_id:literal)*) => {
        $(impl Command for $message {
            const SERVICE_ID: u16 = $service_id;
            const COMMAND_ID: u16 = $command_id;
        })*
    };
}

commands! {
    MsgServReq      1 0x0101
    MsgServRsp      1 0x0102
    LoginReq        1 0x0103
    LoginRes        1 0x0104
    LogoutReq       1 0x0105
    LogoutRsp       1 0x0106
    KickUser        1 0x0107
    AllUserReq      2 0x0208
    AllUserRsp      2 0x0209
    MsgData         3 0x0301
    MsgDataAck      3 0x0302
    ClientTimeReq   3 0x0305
    ClientTimeRsp   3 0x0306
    HeartBeat       7 0x0701
    MsgServInfo     7 0x0709
    UserCntUpdate   7 0x070b
}

/// Adds the handler of a message to a table, at the ids that the message has.
#[must_use]
pub fn on<M: Command, C: 'static, A: 'static>(
    table: Dispatcher<C, A>,
    handler: Handler<C, A, M>,
) -> Dispatcher<C, A> {
    table.on(M::SERVICE_ID, M::COMMAND_ID, handler)
}

/// Says that the sender lives; without a body.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HeartBeat {}

/// A message server tells the directory where clients reach it, and how many it has.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgServInfo {
    /// The address that clients try first.
    #[prost(string, required, tag = "1")]
    pub ip1: String,
    /// The address that clients try next.
    #[prost(string, required, tag = "2")]
    pub ip2: String,
    /// The port, on both.
    #[prost(uint32, required, tag = "3")]
    pub port: u32,
    /// Users that it takes at most.
    #[prost(uint32, required, tag = "4")]
    pub max_conn_cnt: u32,
    /// Users that it has.
    #[prost(uint32, required, tag = "5")]
    pub cur_conn_cnt: u32,
    /// The name of its machine.
    #[prost(string, required, tag = "6")]
    pub host_name: String,
}

/// A user of a message server came or went.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UserCntUpdate {
    /// A [`UserAction`].
    #[prost(uint32, required, tag = "1")]
    pub user_action: u32,
    /// Which user.
    #[prost(uint32, required, tag = "2")]
    pub user_id: u32,
}

/// What a [`UserCntUpdate`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum UserAction {
    /// One more user.
    Inc = 1,
    /// One less.
    Dec = 2,
}

/// A client asks for a message server.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MsgServReq {}

/// The message server that a client is to connect to.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgServRsp {
    /// A [`ResultType`]; with any but `None` the fields below are missing.
    #[prost(enumeration = "ResultType", required, tag = "1")]
    pub result_code: i32,
    /// The address to try first.
    #[prost(string, optional, tag = "2")]
    pub prior_ip: Option<String>,
    /// The address to try next.
    #[prost(string, optional, tag = "3")]
    pub backup_ip: Option<String>,
    /// The port, on both.
    #[prost(uint32, optional, tag = "4")]
    pub port: Option<u32>,
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ResultType {
    /// Well.
    None = 0,
    /// No message server is registered.
    NoMsgServer = 1,
    /// Every message server is full.
    MsgServerFull = 2,
    /// The message server has no database.
    NoDbServer = 3,
    /// The message server has no directory.
    NoLoginServer = 4,
    /// The message server has no way to the others.
    NoRouteServer = 5,
    /// The user name or the password is wrong.
    DbValidateFailed = 6,
    /// The client is too old.
    VersionTooOld = 7,
}

/// A user logs in.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LoginReq {
    /// Who.
    #[prost(string, required, tag = "1")]
    pub user_name: String,
    /// The password, in whatever form client and server agreed upon.
    #[prost(string, required, tag = "2")]
    pub password: String,
    /// A [`UserStatType`].
    #[prost(enumeration = "UserStatType", required, tag = "3")]
    pub online_status: i32,
    /// A [`ClientType`].
    #[prost(enumeration = "ClientType", required, tag = "4")]
    pub client_type: i32,
    /// The version of the client.
    #[prost(string, optional, tag = "5")]
    pub client_version: Option<String>,
}

/// How a login went.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LoginRes {
    /// Seconds since 1970.
    #[prost(uint32, required, tag = "1")]
    pub server_time: u32,
    /// A [`ResultType`].
    #[prost(enumeration = "ResultType", required, tag = "2")]
    pub result_code: i32,
    /// The same for people.
    #[prost(string, optional, tag = "3")]
    pub result_string: Option<String>,
    /// A [`UserStatType`].
    #[prost(enumeration = "UserStatType", optional, tag = "4")]
    pub online_status: Option<i32>,
    /// Who has logged in.
    #[prost(message, optional, tag = "5")]
    pub user_info: Option<UserInfo>,
}

/// Whether a user can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum UserStatType {
    /// Logged in.
    Online = 1,
    /// Not logged in.
    Offline = 2,
    /// Logged in, and away.
    Leave = 3,
}

/// What a client runs on; bit `0x10` is that of mobile ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ClientType {
    /// Windows.
    Windows = 1,
    /// macOS.
    Mac = 2,
    /// iOS.
    Ios = 0x11,
    /// Android.
    Android = 0x12,
}

/// What is known of a user.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UserInfo {
    /// The id that all other messages name the user by.
    #[prost(uint32, required, tag = "1")]
    pub user_id: u32,
    /// 1 male, 2 female.
    #[prost(uint32, required, tag = "2")]
    pub user_gender: u32,
    /// The name that is shown.
    #[prost(string, required, tag = "3")]
    pub user_nick_name: String,
    /// Where a picture is.
    #[prost(string, required, tag = "4")]
    pub avatar_url: String,
    /// The department.
    #[prost(uint32, required, tag = "5")]
    pub department_id: u32,
    /// The address for mail.
    #[prost(string, required, tag = "6")]
    pub email: String,
    /// The name in full.
    #[prost(string, required, tag = "7")]
    pub user_real_name: String,
    /// The telephone number.
    #[prost(string, required, tag = "8")]
    pub user_tel: String,
    /// The name that the user logs in by.
    #[prost(string, required, tag = "9")]
    pub user_domain: String,
    /// 0 for a user as any other.
    #[prost(uint32, required, tag = "10")]
    pub status: u32,
    /// What the user says of today.
    #[prost(string, optional, tag = "11")]
    pub sign_info: Option<String>,
}

/// A user logs out.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogoutReq {}

/// The user is logged out.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogoutRsp {
    /// 0.
    #[prost(uint32, required, tag = "1")]
    pub result_code: u32,
}

/// The user is logged out by the server.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct KickUser {
    /// Who.
    #[prost(uint32, required, tag = "1")]
    pub user_id: u32,
    /// A [`KickReasonType`].
    #[prost(enumeration = "KickReasonType", required, tag = "2")]
    pub kick_reason: i32,
}

/// Why a user was logged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum KickReasonType {
    /// The same user logged in with another client of the same class.
    DuplicateUser = 1,
    /// The user's mobile client asked for it.
    MobileKick = 2,
}

/// A client asks who the users are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AllUserReq {
    /// Who asks.
    #[prost(uint32, required, tag = "1")]
    pub user_id: u32,
    /// What the last answer told, or 0: only what changed since then is asked for.
    #[prost(uint32, required, tag = "2")]
    pub latest_update_time: u32,
    /// What one server wants back from another.
    #[prost(bytes = "vec", optional, tag = "20")]
    pub attach_data: Option<Vec<u8>>,
}

/// Who the users are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AllUserRsp {
    /// Who asked.
    #[prost(uint32, required, tag = "1")]
    pub user_id: u32,
    /// Seconds since 1970.
    #[prost(uint32, required, tag = "2")]
    pub latest_update_time: u32,
    /// The users.
    #[prost(message, repeated, tag = "3")]
    pub user_list: Vec<UserInfo>,
    /// What was in the request.
    #[prost(bytes = "vec", optional, tag = "20")]
    pub attach_data: Option<Vec<u8>>,
}

/// A message from a user to another, or to a group.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MsgData {
    /// The sender.
    #[prost(uint32, required, tag = "1")]
    pub from_user_id: u32,
    /// The receiver, or the group.
    #[prost(uint32, required, tag = "2")]
    pub to_session_id: u32,
    /// The number of the message in its conversation; 0 from a client.
    #[prost(uint32, required, tag = "3")]
    pub msg_id: u32,
    /// Seconds since 1970, told by the server.
    #[prost(uint32, required, tag = "4")]
    pub create_time: u32,
    /// A [`MsgType`].
    #[prost(enumeration = "MsgType", required, tag = "5")]
    pub msg_type: i32,
    /// The message, which servers do not look into.
    #[prost(bytes = "vec", required, tag = "6")]
    pub msg_data: Vec<u8>,
    /// What one server wants back from another.
    #[prost(bytes = "vec", optional, tag = "20")]
    pub attach_data: Option<Vec<u8>>,
}

/// What a message is, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum MsgType {
    /// Text to a user.
    SingleText = 1,
    /// Speech to a user.
    SingleAudio = 2,
    /// Text to a group.
    GroupText = 0x11,
    /// Speech to a group.
    GroupAudio = 0x12,
}

/// A message has arrived: at the server, or at the client that it was delivered to.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MsgDataAck {
    /// Who acknowledges, or whose message it was.
    #[prost(uint32, required, tag = "1")]
    pub user_id: u32,
    /// The other side of the conversation.
    #[prost(uint32, required, tag = "2")]
    pub session_id: u32,
    /// Which message.
    #[prost(uint32, required, tag = "3")]
    pub msg_id: u32,
    /// A [`SessionType`].
    #[prost(enumeration = "SessionType", required, tag = "4")]
    pub session_type: i32,
}

/// A client asks for the time.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ClientTimeReq {}

/// The time.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ClientTimeRsp {
    /// Seconds since 1970.
    #[prost(uint32, required, tag = "1")]
    pub server_time: u32,
}

/// What a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SessionType {
    /// Of two users.
    Single = 1,
    /// Of a group.
    Group = 2,
}
