//! Captured PDUs of TeamTalk's own servers and clients: read into messages, and written again to
//! the byte.

use std::fmt::Debug;

use im_example::messages::{
    ClientTimeReq, ClientTimeRsp, ClientType, Command, HeartBeat, KickReasonType, KickUser,
    LoginReq, LoginRes, LogoutReq, LogoutRsp, MsgData, MsgDataAck, MsgServInfo, MsgServReq,
    MsgServRsp, MsgType, ResultType, SessionType, UserAction, UserCntUpdate, UserInfo,
    UserStatType,
};
use uring_netlib::pdu::{FrameSpec, Reader, encode};

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

/// Reads a PDU by the framing, its body by the message, and writes both again.
#[track_caller]
fn expect<M: Command + PartialEq + Debug>(seq: u16, hex: &str, message: &M) {
    let frame = from_hex(hex);
    let (mut reader, mut input) = (Reader::new(), &frame[..]);
    let pdu = reader.next(&FrameSpec::teamtalk(), &mut input).unwrap().unwrap();
    let header = M::header().with_seq(seq);
    assert_eq!((pdu.header(), input.len()), (Some(header), 0));
    assert_eq!(pdu.decode::<M>().as_ref(), Ok(message));
    let mut written = Vec::new();
    encode(&header, message, 1024, &mut written).unwrap();
    assert_eq!(written, frame);
}

/// What message servers tell the directory.
#[test]
fn registration_counts_and_heartbeats_are_golden() {
    let info = MsgServInfo {
        ip1: "10.0.0.1".into(),
        ip2: "10.0.0.2".into(),
        port: 19000,
        max_conn_cnt: 1000,
        cur_conn_cnt: 0,
        host_name: "vm".into(),
    };
    expect(
        0,
        "00000031 0001 0000 0007 0709 0000 0000
         0a0831302e302e302e31120831302e302e302e3218b8940120e80728003202766d",
        &info,
    );
    for (body, action, user_id) in [
        ("08011001", UserAction::Inc, 1),
        ("08011002", UserAction::Inc, 2),
        ("08021002", UserAction::Dec, 2),
    ] {
        let update = UserCntUpdate { user_action: action as u32, user_id };
        expect(0, &format!("00000014 0001 0000 0007 070b 0000 0000 {body}"), &update);
    }
    expect(0, "00000010 0001 0000 0007 0701 0000 0000", &HeartBeat {});
    expect(5, "00000010 0001 0000 0007 0701 0005 0000", &HeartBeat {});
}

/// What clients ask the directory, and are answered.
#[test]
fn the_directorys_answer_is_golden() {
    expect(9, "00000010 0001 0000 0001 0101 0009 0000", &MsgServReq {});
    let answer = MsgServRsp {
        result_code: ResultType::None.into(),
        prior_ip: Some("127.0.0.1".into()),
        backup_ip: Some("127.0.0.1".into()),
        port: Some(18000),
    };
    expect(
        9,
        "0000002c 0001 0000 0001 0102 0009 0000
         080012093132372e302e302e311a093132372e302e302e3120d08c01",
        &answer,
    );
}

/// Logins as two kinds of client sent them.
#[test]
fn logins_are_golden() {
    let login = |name: &str, client_type: ClientType| LoginReq {
        user_name: name.into(),
        password: "pw".into(),
        online_status: UserStatType::Online.into(),
        client_type: client_type.into(),
        client_version: Some("1.0".into()),
    };
    for (seq, hex, message) in [
        (
            101,
            "00000024 0001 0000 0001 0103 0065 0000 0a05757365723112027077180120012a03312e30",
            login("user1", ClientType::Windows),
        ),
        (
            102,
            "00000024 0001 0000 0001 0103 0066 0000 0a05757365723212027077180120012a03312e30",
            login("user2", ClientType::Windows),
        ),
        (
            101,
            "00000024 0001 0000 0001 0103 0065 0000 0a05757365723112027077180120022a03312e30",
            login("user1", ClientType::Mac),
        ),
    ] {
        expect(seq, hex, &message);
    }
}

fn user(user_id: u32, domain: &str) -> UserInfo {
    UserInfo {
        user_id,
        user_gender: 1,
        user_nick_name: "nick".into(),
        department_id: 1,
        user_real_name: "real".into(),
        user_domain: domain.into(),
        sign_info: Some(String::new()),
        ..UserInfo::default()
    }
}

/// Answers to logins: required strings that are empty are on the wire, and a refusal has no user.
#[test]
fn answers_to_logins_are_golden() {
    let accepted = |server_time, user_info| LoginRes {
        server_time,
        result_code: ResultType::None.into(),
        result_string: Some("ok".into()),
        online_status: Some(UserStatType::Online.into()),
        user_info: Some(user_info),
    };
    for (seq, server_time, body, user_info) in [
        (
            101,
            0x6b04_8de0,
            "08e09b92d80610001a026f6b20012a23080110011a046e69636b2200280132003a047265616c4200
             4a05757365723150005a00",
            user(1, "user1"),
        ),
        (
            102,
            0x6b04_8de0,
            "08e09b92d80610001a026f6b20012a23080210011a046e69636b2200280132003a047265616c4200
             4a05757365723250005a00",
            user(2, "user2"),
        ),
        (
            101,
            0x6b04_8de4,
            "08e49b92d80610001a026f6b20012a23080110011a046e69636b2200280132003a047265616c4200
             4a05757365723150005a00",
            user(1, "user1"),
        ),
    ] {
        let hex = format!("00000043 0001 0000 0001 0104 {seq:04x} 0000 {body}");
        expect(seq, &hex, &accepted(server_time, user_info));
    }
    let refused = LoginRes {
        server_time: 0x6b04_904c,
        result_code: ResultType::NoDbServer.into(),
        result_string: Some("服务端异常".into()),
        online_status: None,
        user_info: None,
    };
    expect(
        5,
        "00000029 0001 0000 0001 0104 0005 0000
         08cca092d80610031a0fe69c8de58aa1e7abafe5bc82e5b8b8",
        &refused,
    );
}

/// Logging out, being logged out, and the time.
#[test]
fn logout_kick_and_time_are_golden() {
    expect(11, "00000010 0001 0000 0001 0105 000b 0000", &LogoutReq {});
    expect(11, "00000012 0001 0000 0001 0106 000b 0000 0800", &LogoutRsp { result_code: 0 });
    let kick = KickUser { user_id: 1, kick_reason: KickReasonType::DuplicateUser.into() };
    expect(0, "00000014 0001 0000 0001 0107 0000 0000 08011001", &kick);
    expect(9, "00000010 0001 0000 0003 0305 0009 0000", &ClientTimeReq {});
    for (seq, server_time, hex) in [
        (6, 0x6b04_904c, "00000016 0001 0000 0003 0306 0006 0000 08cca092d806"),
        (9, 0x6b04_8de3, "00000016 0001 0000 0003 0306 0009 0000 08e39b92d806"),
    ] {
        expect(seq, hex, &ClientTimeRsp { server_time });
    }
}

/// A message on its way: from a client, to the database and back, and to the receiver.
#[test]
fn a_message_is_golden_on_every_leg() {
    let sent = MsgData {
        from_user_id: 1,
        to_session_id: 2,
        msg_id: 0,
        create_time: 0,
        msg_type: MsgType::SingleText.into(),
        msg_data: b"hey".to_vec(),
        attach_data: None,
    };
    let attach_data = Some(from_hex("000000010000000900000000"));
    let stamped = MsgData { create_time: 0x6b04_8de1, ..sent.clone() };
    let stored = MsgData { msg_id: 77, ..stamped.clone() };
    for (seq, hex, message) in [
        (6, "0000001f 0001 0000 0003 0301 0006 0000 080110021800200028013203686579", sent),
        (
            6,
            "00000032 0001 0000 0003 0301 0006 0000
             08011002180020e19b92d80628013203686579a2010c000000010000000900000000",
            MsgData { attach_data: attach_data.clone(), ..stamped },
        ),
        (
            6,
            "00000032 0001 0000 0003 0301 0006 0000
             08011002184d20e19b92d80628013203686579a2010c000000010000000900000000",
            MsgData { attach_data, ..stored.clone() },
        ),
        (
            0,
            "00000023 0001 0000 0003 0301 0000 0000 08011002184d20e19b92d80628013203686579",
            stored,
        ),
    ] {
        expect(seq, hex, &message);
    }
}

/// Acknowledgements, of the server and of the receiver.
#[test]
fn acknowledgements_are_golden() {
    let ack = |user_id, session_id| MsgDataAck {
        user_id,
        session_id,
        msg_id: 77,
        session_type: SessionType::Single.into(),
    };
    expect(6, "00000018 0001 0000 0003 0302 0006 0000 08011002184d2001", &ack(1, 2));
    expect(0, "00000018 0001 0000 0003 0302 0000 0000 08021001184d2001", &ack(2, 1));
}
