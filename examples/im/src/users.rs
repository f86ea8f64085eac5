//! The users of a message server: who is logged in, and on which connections.
//!
//! Knows nothing of sockets: a connection is told apart by its handle, which `msg` reports here
//! when a user logs in on it and when it is over. Nothing but [`Users::iter`] walks over all users.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use uring_netlib::Handle;

/// Whoever is logged in. A user may be so on several connections.
#[derive(Debug)]
pub struct Users {
    connections_max: usize,
    /// The user of each connection.
    online: HashMap<Handle, u32>,
    ids: HashMap<String, u32>,
    users: HashMap<u32, User>,
    last_id: u32,
}

#[derive(Debug)]
struct User {
    name: String,
    /// With what each client runs on; few.
    connections: Vec<(Handle, i32)>,
}

impl Users {
    /// Nobody, and so many connections at most.
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        let (online, ids, users) = Default::default();
        Self { connections_max, online, ids, users, last_id: 0 }
    }

    /// Enters a user who logged in on a connection, and returns the id that messages name the user
    /// by. A name has one id for as long as it is logged in anywhere. `None` when all places are
    /// taken.
    ///
    /// ```
    /// use im_example::users::Users;
    /// use uring_netlib::Handle;
    ///
    /// let mut users = Users::new(1);
    /// let (first, second) = (Handle::from_bits(1), Handle::from_bits(2));
    /// assert_eq!(users.login(first, "ann", 1), Some(1));
    /// assert_eq!(users.login(second, "bob", 1), None);
    /// assert_eq!(users.logout(first), Some((1, "ann".to_owned())));
    /// ```
    ///
    /// # Panics
    /// When somebody is logged in on that connection already.
    pub fn login(&mut self, connection: Handle, name: &str, client_type: i32) -> Option<u32> {
        assert!(!self.online.contains_key(&connection), "one login a connection");
        if self.online.len() >= self.connections_max {
            return None;
        }
        let id = self.ids.get(name).copied().unwrap_or_else(|| {
            self.last_id += 1;
            self.ids.insert(name.to_owned(), self.last_id);
            self.last_id
        });
        self.online.insert(connection, id);
        let new = || User { name: name.to_owned(), connections: Vec::new() };
        self.users.entry(id).or_insert_with(new).connections.push((connection, client_type));
        Some(id)
    }

    /// Takes out the user of a connection that is over, and returns id and name. `None` where
    /// nobody was logged in on it.
    pub fn logout(&mut self, connection: Handle) -> Option<(u32, String)> {
        let id = self.online.remove(&connection)?;
        let user = self.users.get_mut(&id)?;
        user.connections.retain(|(one, _)| *one != connection);
        let name = user.name.clone();
        if user.connections.is_empty() {
            self.users.remove(&id);
            self.ids.remove(&name);
        }
        Some((id, name))
    }

    /// The connection on which that name is logged in with a client of the same class: computers
    /// are one, mobile devices the other. It has to go before the name logs in with another.
    #[must_use]
    pub fn rival(&self, name: &str, client_type: i32) -> Option<Handle> {
        let user = self.users.get(self.ids.get(name)?)?;
        let is_same = |(_, other): &&(Handle, i32)| is_mobile(*other) == is_mobile(client_type);
        user.connections.iter().find(is_same).map(|(connection, _)| *connection)
    }

    /// Who is logged in on a connection.
    #[must_use]
    pub fn on(&self, connection: Handle) -> Option<u32> {
        self.online.get(&connection).copied()
    }

    /// The connections on which a user is logged in.
    pub fn connections(&self, id: u32) -> impl Iterator<Item = Handle> {
        let connections = self.users.get(&id).map_or(&[][..], |user| &user.connections);
        connections.iter().map(|(connection, _)| *connection)
    }

    /// All users, by id and name.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.users.iter().map(|(id, user)| (*id, user.name.as_str()))
    }

    /// How many connections are logged in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.online.len()
    }

    /// Whether nobody is logged in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.online.is_empty()
    }
}

/// Whether a client runs on a mobile device, which is a bit of its type.
#[must_use]
pub fn is_mobile(client_type: i32) -> bool {
    client_type & 0x10 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: i32 = 1;
    const MAC: i32 = 2;
    const IOS: i32 = 0x11;
    const ANDROID: i32 = 0x12;

    fn handle(number: u64) -> Handle {
        Handle::from_bits(1 << 32 | number)
    }

    /// A name keeps its id while it is logged in anywhere, and no other name has it.
    #[test]
    fn a_name_has_one_id_at_a_time() {
        let mut users = Users::new(9);
        assert_eq!(users.login(handle(1), "ann", WINDOWS), Some(1));
        assert_eq!(users.login(handle(2), "bob", WINDOWS), Some(2));
        assert_eq!(users.login(handle(3), "ann", IOS), Some(1));
        assert_eq!(users.logout(handle(1)), Some((1, "ann".into())));
        assert_eq!(users.login(handle(4), "ann", MAC), Some(1));
        assert_eq!((users.on(handle(4)), users.on(handle(1))), (Some(1), None));
        assert_eq!(users.connections(1).collect::<Vec<_>>(), [handle(3), handle(4)]);
        let mut all: Vec<(u32, &str)> = users.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(1, "ann"), (2, "bob")]);
    }

    /// A user who has left leaves nothing behind, and a connection is logged out once.
    #[test]
    fn a_user_who_has_left_leaves_nothing() {
        let mut users = Users::new(9);
        for round in 1..=3 {
            assert_eq!(users.login(handle(1), "ann", WINDOWS), Some(round));
            assert_eq!(users.logout(handle(1)), Some((round, "ann".into())));
            assert_eq!(users.logout(handle(1)), None);
            assert_eq!(users.connections(round).count(), 0);
        }
        assert!(users.is_empty() && users.ids.is_empty() && users.users.is_empty());
    }

    /// Places are connections, and one that is left can be taken again.
    #[test]
    fn no_more_than_the_places_are_taken() {
        let mut users = Users::new(2);
        users.login(handle(1), "ann", WINDOWS).unwrap();
        users.login(handle(2), "ann", IOS).unwrap();
        assert_eq!(users.login(handle(3), "bob", WINDOWS), None);
        assert_eq!((users.len(), users.on(handle(3))), (2, None));
        users.logout(handle(1)).unwrap();
        assert_eq!(users.login(handle(3), "bob", WINDOWS), Some(2));
    }

    /// Clients of one class are rivals, if they are of the same user.
    #[test]
    fn rivals_are_of_one_name_and_one_class() {
        let mut users = Users::new(9);
        users.login(handle(1), "ann", WINDOWS).unwrap();
        users.login(handle(2), "ann", ANDROID).unwrap();
        users.login(handle(3), "bob", MAC).unwrap();
        for (name, client_type, rival) in [
            ("ann", MAC, Some(1)),
            ("ann", IOS, Some(2)),
            ("bob", WINDOWS, Some(3)),
            ("bob", IOS, None),
            ("cid", MAC, None),
        ] {
            assert_eq!(users.rival(name, client_type), rival.map(handle), "{name} {client_type}");
        }
    }
}
