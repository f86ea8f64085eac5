//! The directory of message servers does what a plain list does, whatever the servers tell it; what
//! it answers is the JSON that it stands for.
//!
//! The bytes are messages as they come in: who, what, and a protobuf body.

#![no_main]

use im_example::directory::{Choice, Directory, DirectoryError};
use im_example::http::{Links, answer};
use im_example::messages::{MsgServInfo, UserCntUpdate};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use uring_netlib::Handle;
use uring_netlib::pdu::ByteReader;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = ByteReader::new(bytes);
    let (mut directory, mut model) = (Directory::default(), Vec::<(u8, MsgServInfo)>::new());
    while let Ok(what) = bytes.u8() {
        let server = what >> 3;
        let handle = Handle::from_bits(1 << 32 | u64::from(server));
        let Some(body) = body(&mut bytes) else { return };
        match what & 7 {
            0 => {
                let removed = directory.remove(handle);
                let position = model.iter().position(|(known, _)| *known == server);
                assert_eq!(removed, position.map(|position| model.remove(position).1));
            }
            1..4 => {
                let Ok(info) = MsgServInfo::decode(body) else { continue };
                register(&mut directory, &mut model, (server, handle), info);
            }
            _ => {
                let Ok(update) = UserCntUpdate::decode(body) else { continue };
                count(&mut directory, &mut model, (server, handle), update);
            }
        }
        check(&directory, &model);
    }
});

/// A body of at most 255 bytes.
fn body<'a>(bytes: &mut ByteReader<'a>) -> Option<&'a [u8]> {
    let len = usize::from(bytes.u8().ok()?);
    let (body, rest) = bytes.remaining().split_at_checked(len)?;
    *bytes = ByteReader::new(rest);
    Some(body)
}

fn register(
    directory: &mut Directory,
    model: &mut Vec<(u8, MsgServInfo)>,
    (server, handle): (u8, Handle),
    info: MsgServInfo,
) {
    let registered = directory.register(handle, info.clone());
    if info.port == 0 || info.port > 65_535 {
        assert_eq!(registered, Err(DirectoryError::Port(info.port)));
        return;
    }
    assert_eq!(registered, Ok(()));
    match model.iter_mut().find(|(known, _)| *known == server) {
        Some((_, old)) => *old = info,
        None => model.push((server, info)),
    }
}

fn count(
    directory: &mut Directory,
    model: &mut [(u8, MsgServInfo)],
    (server, handle): (u8, Handle),
    update: UserCntUpdate,
) {
    let counted = directory.count(handle, update);
    let Some((_, info)) = model.iter_mut().find(|(known, _)| *known == server) else {
        assert_eq!(counted, Err(DirectoryError::NotRegistered));
        return;
    };
    match update.user_action {
        1 if info.cur_conn_cnt < u32::MAX => info.cur_conn_cnt += 1,
        2 if info.cur_conn_cnt > 0 => info.cur_conn_cnt -= 1,
        1 | 2 => {}
        action => {
            assert_eq!(counted, Err(DirectoryError::Action(action)));
            return;
        }
    }
    assert_eq!(counted, Ok(&*info));
}

fn check(directory: &Directory, model: &[(u8, MsgServInfo)]) {
    assert_eq!((directory.len(), directory.is_empty()), (model.len(), model.is_empty()));
    let users = model.iter().map(|(_, info)| u64::from(info.cur_conn_cnt)).sum::<u64>();
    assert_eq!(directory.users(), users);
    let mut best: Option<&MsgServInfo> = None;
    for (_, info) in model {
        let has_room = info.cur_conn_cnt < info.max_conn_cnt;
        if has_room && best.is_none_or(|best| info.cur_conn_cnt < best.cur_conn_cnt) {
            best = Some(info);
        }
    }
    let choice = directory.choose();
    let expected = match best {
        Some(info) => Choice::Server(info),
        None if model.is_empty() => Choice::NoServer,
        None => Choice::Full,
    };
    assert_eq!(choice, expected);
    assert!(!choice.to_string().contains('\n'), "a server cannot break a line of the log");
    let links = Links { msfs: "m".to_owned(), discovery: "d".to_owned() };
    let response = String::from_utf8(answer(choice, &links)).expect("UTF-8");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("\r\nContent-Length:{}\r\n", body.len())), "{head}");
    let lines = if best.is_some() { 11 } else { 5 };
    assert_eq!(body.split('\n').count(), lines, "a server cannot break out of its string: {body}");
}
