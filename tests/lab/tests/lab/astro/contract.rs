//! Lists, permissions, rotation and the rest of the vendor's contract.

use super::{Lab, names, status, success};
use jiff::Timestamp;
use lab::astro::{Kind, NewToken, Operation};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn rotate_returns_a_new_value_once_and_kills_the_old_one() {
    let lab = Lab::start().await;
    let before = lab.get_token().await;
    assert!(before.get("lastRotatedAt").is_none());

    let rotated = lab.rotated().await;
    let value = rotated["token"].as_str().unwrap();
    assert_eq!(rotated["id"], lab.token.id.as_str());
    assert_ne!(rotated["shortToken"], before["shortToken"]);
    assert_ne!(value, lab.token.value);
    assert!(lab.astro.is_live(value));
    assert!(!lab.astro.is_live(&lab.token.value));
    assert_eq!(lab.astro.live_value(&lab.token.id).unwrap(), value);
    let owner = Some(lab.token.id.clone());
    assert_eq!(lab.astro.token_of(&lab.token.value), owner);
    assert_eq!(lab.astro.token_of(value), owner);
    assert_eq!(lab.astro.token_of("made up"), None);
    assert_eq!(lab.rotations(), 1);
    assert_eq!(lab.astro.issued().len(), 3);

    let after = lab.get_token().await;
    assert_eq!(after["lastRotatedAt"], rotated["lastRotatedAt"]);
    assert_eq!(after["updatedBy"]["id"], lab.owner.id.as_str());
    assert!(after.get("token").is_none());
    assert!(lab.list("").await["tokens"][1].get("token").is_none());
    let at: Timestamp = after["lastRotatedAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.subsec_nanosecond(), 0);
}

#[tokio::test]
async fn values_look_like_the_vendors() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let lab = Lab::start().await;
    let token = NewToken::workspace("expires", &lab.workspace).expires(30);
    let issued = lab.astro.create(token);
    assert!(issued.value.len() > 700, "{}", issued.value.len());
    assert!(issued.id.len() == 25 && issued.id.starts_with('c'));

    let parts: Vec<&str> = issued.value.split('.').collect();
    assert_eq!(parts.len(), 3);
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    assert_eq!(decode(parts[2]).len(), 256);
    let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
    assert_eq!(claims["apiTokenId"], issued.id.as_str());
    assert_eq!(claims["org_id"], lab.astro.organization());
    let permissions = json!([
        format!("organizationId:{}", lab.astro.organization()),
        format!("workspaceId:{}", lab.workspace),
    ]);
    assert_eq!(claims["permissions"], permissions);
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lifetime, 30 * 86_400);

    let shown = lab.get(&format!("/tokens/{}", issued.id)).await;
    assert!(!issued.value.contains(shown["shortToken"].as_str().unwrap()));
    let eternal: Value =
        serde_json::from_slice(&decode(lab.token.value.split('.').nth(1).unwrap())).unwrap();
    assert!(eternal.get("exp").is_none());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let lab = Lab::start().await;
    for n in 0..23 {
        let name = format!("token-{n:02}");
        let token = NewToken::workspace(name, &lab.workspace);
        lab.astro.create(token.description((n % 2).to_string()));
    }
    let page = lab.list("").await;
    assert_eq!(names(&page).len(), 20);
    assert_eq!(
        [&page["limit"], &page["offset"], &page["totalCount"]],
        [20, 0, 25]
    );
    assert_eq!(names(&lab.list("&offset=20").await).len(), 5);
    assert_eq!(
        names(&lab.list("&limit=3&offset=2").await),
        ["token-00", "token-01", "token-02"]
    );
    let sorted = lab
        .list("&limit=2&sorts=description:desc&sorts=name:asc")
        .await;
    assert_eq!(names(&sorted), ["token-01", "token-03"]);

    lab.astro.settings(|s| s.page_cap = 10);
    let capped = lab.list("&limit=1000").await;
    assert_eq!((names(&capped).len(), &capped["limit"]), (10, &json!(1000)));

    for bad in [
        "limit=1001",
        "limit=-1",
        "offset=x",
        "sorts=age:asc",
        "kind=OTHER",
    ] {
        let path = format!("/tokens?workspaceId={}&{bad}", lab.workspace);
        let response = lab.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), 400, "{bad}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["statusCode"], 400);
        assert!(error["requestId"].is_string() && error["fieldErrors"][0]["field"].is_string());
    }
}

#[tokio::test]
async fn a_workspaces_list_has_organization_tokens_and_doubles_in_it() {
    let lab = Lab::start().await;
    let ws = &lab.workspace;
    let with_role = NewToken::organization("org").also(ws, "WORKSPACE_MEMBER");
    lab.astro.create(with_role);
    lab.astro
        .create(NewToken::organization("org without a role here"));
    lab.astro
        .create(NewToken::workspace("elsewhere", "another"));
    lab.astro
        .create(NewToken::workspace("ci", ws).kind(Kind::DirectAccess));

    let list = lab.list("").await;
    assert_eq!(names(&list), ["owner", "ci", "org", "ci"]);
    assert_eq!(list["tokens"][2]["scope"], "ORGANIZATION");
    assert_eq!(list["tokens"][3]["kind"], "DIRECT_ACCESS");
    assert_eq!(
        names(&lab.list("&kind=STANDARD").await),
        ["owner", "ci", "org"]
    );
    let only = lab.list("&includeOnlyOrganizationTokens=true").await;
    assert_eq!(names(&only), ["org"]);
}

#[tokio::test]
async fn only_owners_manage_tokens() {
    let lab = Lab::start().await;
    let (astro, ws) = (&lab.astro, &lab.workspace);
    let list = format!("/tokens?workspaceId={ws}");
    let get = format!("/tokens/{}", lab.token.id);
    let rotate = format!("/tokens/{}/rotate", lab.token.id);

    let dead = astro.create(NewToken::owner("dead", ws));
    astro.rotate(&dead.id);
    let deleted = astro.create(NewToken::owner("deleted", ws));
    astro.delete(&deleted.id);
    let expired = astro.create(NewToken::owner("expired", ws));
    astro.set_end(&expired.id, Some(Timestamp::now()));
    let organization = NewToken::organization("o");
    let rows = [
        ("owner", lab.owner.value.clone(), 200),
        (
            "owner of all",
            astro
                .create(organization.clone().role("ORGANIZATION_OWNER"))
                .value,
            200,
        ),
        (
            "owner here",
            astro
                .create(organization.clone().also(ws, "WORKSPACE_OWNER"))
                .value,
            200,
        ),
        ("member of all", astro.create(organization).value, 403),
        (
            "owner elsewhere",
            astro.create(NewToken::owner("e", "another")).value,
            403,
        ),
        (
            "member",
            astro.create(NewToken::workspace("m", ws)).value,
            403,
        ),
        (
            "operator",
            astro
                .create(NewToken::owner("p", ws).role("WORKSPACE_OPERATOR"))
                .value,
            403,
        ),
        ("dead", dead.value, 401),
        ("deleted", deleted.value, 401),
        ("expired", expired.value, 401),
        ("unknown", "e30.e30.x".into(), 401),
    ];
    for (who, value, expected) in rows {
        for (method, path) in [
            (Method::GET, &list),
            (Method::GET, &get),
            (Method::POST, &rotate),
        ] {
            let answer = status(lab.request_as(&value, method, path)).await;
            assert_eq!(answer, expected, "{who} {path}");
        }
    }
    assert_eq!(lab.rotations(), 3);

    let bare = lab.http.get(format!("{}/organizations", astro.url()));
    assert_eq!(status(bare).await, 401);
    let org = astro.create(NewToken::organization("org").also(ws, "WORKSPACE_MEMBER"));
    assert_eq!(status(lab.rotate_id(&org.id)).await, 403);
    assert_eq!(
        status(lab.rotate_id("clm8q7f6q000008lcgyougpsk")).await,
        404
    );
    assert_eq!(status(lab.rotate_id(&deleted.id)).await, 404);
    let foreign = format!(
        "{}/organizations/other/tokens/{}",
        astro.url(),
        lab.token.id
    );
    let foreign = lab.http.get(foreign).bearer_auth(&lab.owner.value);
    assert_eq!(status(foreign).await, 403);
    assert_eq!(status(lab.request(Method::GET, "/tokens")).await, 403);
    assert_eq!(status(lab.request(Method::GET, "/nothing")).await, 404);
    assert_eq!(status(lab.request(Method::PUT, &get)).await, 405);
}

#[tokio::test]
async fn tokens_are_created_changed_and_deleted() {
    let lab = Lab::start().await;
    let create = |body: Value| lab.request(Method::POST, "/tokens").json(&body);
    let body = json!({
        "name": "new", "scope": "WORKSPACE", "entityId": lab.workspace,
        "role": "WORKSPACE_MEMBER", "tokenExpiryPeriodInDays": 7,
    });
    let new = success(create(body.clone()).send().await.unwrap()).await;
    assert!(lab.astro.is_live(new["token"].as_str().unwrap()));
    assert_eq!(new["expiryPeriodInDays"], 7);
    let path = format!("/tokens/{}", new["id"].as_str().unwrap());

    for (field, value) in [
        ("name", json!("")),
        ("scope", json!("PLANET")),
        ("tokenExpiryPeriodInDays", json!(3651)),
        ("entityId", json!(null)),
    ] {
        let mut bad = body.clone();
        bad[field] = value;
        assert_eq!(status(create(bad)).await, 400, "{field}");
    }

    let update = |body: Value| lab.request(Method::POST, &path).json(&body);
    let renamed = update(json!({"name": "renamed", "description": "d"}));
    assert_eq!(
        success(renamed.send().await.unwrap()).await["name"],
        "renamed"
    );
    assert_eq!(status(update(json!({"description": "no name"}))).await, 400);
    assert_eq!(lab.get(&path).await["description"], "d");

    assert_eq!(status(lab.request(Method::DELETE, &path)).await, 204);
    assert_eq!(status(lab.request(Method::DELETE, &path)).await, 404);
    assert!(!lab.astro.is_live(new["token"].as_str().unwrap()));
}

#[tokio::test]
async fn workspaces_and_the_organization_are_shown() {
    let lab = Lab::start().await;
    lab.astro
        .create(NewToken::workspace("elsewhere", "another"));
    let list = lab.get("/workspaces").await;
    assert_eq!(list["totalCount"], 1);
    assert_eq!(list["workspaces"][0]["id"], lab.workspace.as_str());
    let one = lab.get(&format!("/workspaces/{}", lab.workspace)).await;
    assert_eq!(one["organizationId"], lab.astro.organization());
    assert_eq!(
        status(lab.request(Method::GET, "/workspaces/another")).await,
        403
    );

    let url = format!("{}/organizations?limit=100&offset=0", lab.astro.url());
    let request = lab.http.get(url).bearer_auth(&lab.owner.value);
    let organizations = success(request.send().await.unwrap()).await;
    assert_eq!(organizations["organizations"][0]["product"], "HOSTED");
}

#[tokio::test]
async fn somebody_else_can_rotate_rename_and_delete() {
    let lab = Lab::start().await;
    let value = lab.astro.rotate(&lab.token.id);
    assert!(lab.astro.is_live(&value) && !lab.astro.is_live(&lab.token.value));
    assert_eq!(lab.rotations(), 0);
    lab.astro.rename(&lab.token.id, "other");
    let seen = lab.get_token().await;
    assert_eq!(seen["name"], "other");
    assert_eq!(seen["updatedBy"]["subjectType"], "USER");
    assert!(seen["lastRotatedAt"].is_string());
    lab.astro.delete(&lab.token.id);
    assert_eq!(lab.astro.live_value(&lab.token.id), None);
    assert_eq!(names(&lab.list("").await), ["owner"]);
}

#[tokio::test]
async fn requests_are_noted() {
    let lab = Lab::start().await;
    lab.rotated().await;
    status(lab.request_as("nobody's", Method::GET, "/tokens")).await;
    let requests = lab.astro.requests();
    let [rotate, list] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(rotate.operation, Operation::Rotate);
    assert_eq!(rotate.token_id.as_ref(), Some(&lab.token.id));
    assert_eq!(rotate.credential.as_ref(), Some(&lab.owner.id));
    assert_eq!(rotate.status, Some(200));
    assert_eq!(rotate.user_agent.as_deref(), Some("lab/1"));
    assert_eq!((list.operation, list.status), (Operation::List, Some(401)));
    assert_eq!(list.credential, None);
    lab.astro.clear_requests();
    assert!(lab.astro.requests().is_empty());
}

#[tokio::test]
async fn of_many_rotations_at_once_one_value_lives() {
    let lab = Lab::start().await;
    let calls = (0..100).map(|_| async {
        let rotated = lab.rotated().await;
        rotated["token"].as_str().unwrap().to_owned()
    });
    let values = futures::future::join_all(calls).await;
    let live = values.iter().filter(|v| lab.astro.is_live(v)).count();
    assert_eq!((live, lab.rotations()), (1, 100));
}
