use super::super::testing::security;
use super::asked::ID_MAX;
use super::files::LINE_LIMIT;
use super::*;
use crate::container::RunAs;
use proptest::prelude::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # a comment\n\
    broken:x:one:1\n\
    short\n\
    :x:5:5::/:\n\
    1000:x:0:0:digits as a name:/evil:/bin/sh\n\
    4294967297:x:0:0::/evil:\n\
    +:x:0:0::/evil:\n\
    app:x:1000:1001:App:/home/app:/bin/sh\n\
    app:x:0:0:the second of this name:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
    huge:x:4294967296:0::/:\n";
const GROUP: &str = "root:x:0:\n\
    broken:x:y:app\n\
    app:x:1001:\n\
    audio:x:29:app,www-data\n\
    wide:x:50000:app\n\
    wide:x:50001:other\n\
    prefix:x:70:application\n";

fn files() -> UserFiles {
    UserFiles { passwd: Some(PASSWD.into()), group: Some(GROUP.into()) }
}

fn image(user: &str) -> Result<Identity, UserError> {
    resolve(&security(), user, &files())
}

#[test]
fn an_images_user_is_resolved_in_every_form_it_can_have() {
    for (user, uid, gid, groups) in [
        ("", 0, 0, &[0][..]),
        ("0", 0, 0, &[0]),
        ("root", 0, 0, &[0]),
        ("app", 1000, 1001, &[1001, 29, 50000]),
        ("1000", 1000, 1001, &[1001, 29, 50000]),
        ("01000", 1000, 1001, &[1001, 29, 50000]),
        ("app:audio", 1000, 29, &[29, 50000]),
        ("app:77", 1000, 77, &[77, 29, 50000]),
        ("1000:wide", 1000, 50000, &[50000, 29]),
        ("4711", 4711, 0, &[0]),
        ("4711:4712", 4711, 4712, &[4712]),
        ("www-data", 33, 33, &[33, 29]),
        ("2147483647", 2_147_483_647, 0, &[0]),
    ] {
        let identity = image(user).unwrap();
        assert_eq!(
            (identity.uid, identity.gid, identity.groups.as_slice()),
            (uid, gid, groups),
            "{user:?}"
        );
    }
}

#[test]
fn an_images_user_that_is_none_is_refused_by_name() {
    for user in [
        "4294967295",
        "4294967296",
        "4294967297",
        "2147483648",
        "99999999999999999999",
        "-1",
        "+1",
        "+",
        "1:",
        ":1",
        ":",
        "1:2:3",
        " 1",
        "1 ",
        "1a",
        "nobody",
        "app:nogroup",
        "app:4294967296",
        "a\nb",
        "a\0",
        "huge",
        "broken",
        "short",
        "ｒｏｏｔ",
    ] {
        let error = image(user).unwrap_err();
        assert!(
            matches!(error, UserError::Invalid { .. } | UserError::Unknown { .. }),
            "{user:?}: {error}"
        );
        assert!(error.to_string().contains("the image's USER"), "{error}");
    }
    let unknown = image("nobody").unwrap_err().to_string();
    assert_eq!(unknown, "the image's USER \"nobody\": the image's /etc/passwd has no such entry");
}

#[test]
fn what_the_pod_says_wins_over_the_image() {
    let run = |run_as| {
        let security = ContainerSecurity { run_as, ..security() };
        resolve(&security, "root", &files()).map(|one| (one.uid, one.gid))
    };
    assert_eq!(run(RunAs::Uid { uid: 1000, gid: None }), Ok((1000, 1001)));
    assert_eq!(run(RunAs::Uid { uid: 1000, gid: Some(5) }), Ok((1000, 5)));
    assert_eq!(run(RunAs::Uid { uid: 4711, gid: None }), Ok((4711, 0)));
    assert_eq!(run(RunAs::Name { name: "www-data".into(), gid: None }), Ok((33, 33)));
    assert_eq!(run(RunAs::Name { name: "1000".into(), gid: Some(7) }), Ok((1000, 7)));
    assert!(run(RunAs::Uid { uid: u32::MAX, gid: None }).is_err());
    assert!(run(RunAs::Uid { uid: 1, gid: Some(1 << 31) }).is_err());
    assert!(
        run(RunAs::Name { name: "ghost".into(), gid: None })
            .unwrap_err()
            .to_string()
            .contains("run_as_username \"ghost\"")
    );
    assert!(run(RunAs::Name { name: String::new(), gid: None }).is_err());
}

#[test]
fn groups_are_the_primary_one_then_the_images_then_the_pods() {
    let run = |groups_policy| {
        let supplemental_groups = vec![1234, 29, 1234];
        let run_as = RunAs::Uid { uid: 1000, gid: None };
        let security =
            ContainerSecurity { run_as, supplemental_groups, groups_policy, ..security() };
        resolve(&security, "", &files()).unwrap().groups
    };
    assert_eq!(run(GroupsPolicy::Merge), [1001, 29, 50000, 1234]);
    assert_eq!(run(GroupsPolicy::Strict), [1001, 1234, 29]);
}

#[test]
fn without_the_files_numbers_are_enough_and_names_are_not() {
    let none = UserFiles::default();
    assert_eq!(resolve(&security(), "12:13", &none).unwrap().groups, [13]);
    assert!(resolve(&security(), "root", &none).is_err());
    assert!(resolve(&security(), "0:root", &none).is_err());
}

#[test]
fn a_home_directory_comes_from_the_image_if_it_is_one() {
    assert_eq!(image("app").unwrap().home.as_deref(), Some("/home/app"));
    assert_eq!(image("4711").unwrap().home, None);
    for line in ["a:x:5:5::relative:", "a:x:5:5::/a\tb:", "a:x:5:5"] {
        let files = UserFiles { passwd: Some(line.into()), group: None };
        assert_eq!(resolve(&security(), "a", &files).unwrap().home, None, "{line}");
    }
}

#[test]
fn a_real_name_in_an_old_encoding_hides_no_user() {
    let passwd = Some(b"jos:x:7:8:Jos\xe9:/home/jos:/bin/sh\n".to_vec());
    let found = resolve(&security(), "jos", &UserFiles { passwd, group: None }).unwrap();
    assert_eq!((found.uid, found.gid, found.home.as_deref()), (7, 8, Some("/home/jos")));
}

#[test]
fn a_file_that_is_no_such_file_is_refused_at_once() {
    let mut large = PASSWD.as_bytes().to_vec();
    large.resize(UserFiles::LIMIT + 1, b'\n');
    let mut wide = vec![b'a'; LINE_LIMIT + 1];
    wide.extend(b"\nroot:x:0:0::/:\n");
    for bytes in [large, wide, b"root:x:0:0::/:\r\n".to_vec(), b"root\0:x:0:0::/:\n".to_vec()] {
        let began = std::time::Instant::now();
        for files in [
            UserFiles { passwd: Some(bytes.clone()), group: None },
            UserFiles { passwd: None, group: Some(bytes.clone()) },
        ] {
            let error = resolve(&security(), "0", &files).unwrap_err();
            assert!(matches!(error, UserError::File { .. }), "{error}");
        }
        assert!(began.elapsed().as_secs() < 2);
    }
}

#[test]
fn more_groups_than_a_process_can_have_are_refused() {
    let mut group = String::new();
    for gid in 1..=65_536 {
        group.push_str(&format!("g{gid}:x:{gid}:root\n"));
    }
    let files = UserFiles { passwd: Some(PASSWD.into()), group: Some(group.into()) };
    assert_eq!(resolve(&security(), "0", &files), Err(UserError::TooManyGroups { count: 65_537 }));
}

proptest! {
    #[test]
    fn no_bytes_and_no_text_make_it_fail(
        user in ".{0,20}",
        passwd in proptest::collection::vec(any::<u8>(), 0..300),
        group in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let files = UserFiles { passwd: Some(passwd), group: Some(group) };
        let _ = resolve(&security(), &user, &files);
    }

    #[test]
    fn text_that_is_all_digits_is_that_number_or_refused_whatever_the_image_says(
        user in "[0-9]{1,24}",
        name_of_root in "[0-9]{1,24}",
    ) {
        let passwd = format!("{user}:x:0:0::/:\n{name_of_root}:x:0:0::/:\n");
        let files = UserFiles { passwd: Some(passwd.into()), group: None };
        match (user.parse::<u32>(), resolve(&security(), &user, &files)) {
            (Ok(number), Ok(identity)) => prop_assert_eq!(identity.uid, number),
            (Ok(number), Err(_)) => prop_assert!(number > ID_MAX),
            (Err(_), result) => prop_assert!(result.is_err()),
        }
    }

    #[test]
    fn every_id_of_a_well_formed_line_is_found_again(
        name in "[a-z][a-z0-9_-]{0,10}", uid in 0..=ID_MAX, gid in 0..=ID_MAX,
    ) {
        let files = UserFiles { passwd: Some(format!("x:x\n{name}:x:{uid}:{gid}:,,,:/h:/s\n").into()), group: None };
        let found = resolve(&security(), &name, &files).unwrap();
        prop_assert_eq!((found.uid, found.gid), (uid, gid));
    }
}
