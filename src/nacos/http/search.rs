//! `/v1/cs/configs?search=…`: pages of configurations.
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Answer, caused, failure, illegal_name, json as json_answer, with_revision},
    call::Call,
    config::summary,
};
use crate::{
    nacos::names,
    service::Filter,
    types::{InvalidName, NameField, NameProblem, limits},
};

/// More on one page is refused: an answer is built in memory.
const PAGE_SIZE_MAX: usize = 10_000;

pub(super) async fn search(api: &Api, call: &Call, blur: bool) -> Answer {
    let asked = request(call, blur).and_then(|asked| Ok((asked, call.consistency(api.clients.reads)?)));
    let ((filter, page, size), consistency) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let by_tags = !filter.tags.is_empty();
    let read = match api.services.search(filter, (page - 1).saturating_mul(size), size, consistency).await {
        Ok(read) => read,
        Err(err) => return failure(&err),
    };
    let listed = read.value;
    if listed.is_cut {
        let max = limits::PAGE_BYTES_MAX;
        return caused(&format!("the contents of this page have more than {max} bytes; ask for a smaller pageSize"));
    }
    let items: Vec<Value> = listed
        .items
        .iter()
        .map(|(key, record)| {
            let mut item = summary(key, record);
            // As recorded: the three ways of listing leave out different fields.
            if !blur {
                item["encryptedDataKey"] = Value::Null;
            }
            if by_tags {
                (item["md5"], item["type"]) = (Value::Null, Value::Null);
            }
            item
        })
        .collect();
    let answer = json_answer(&json!({
        "totalCount": listed.total,
        "pageNumber": page,
        "pagesAvailable": listed.total.div_ceil(size),
        "pageItems": items,
    }));
    with_revision(answer, read.revision)
}

/// A pattern is a name with a star at either end, or shorter.
fn check_pattern(field: NameField, pattern: &str, name_bytes_max: usize) -> Result<(), Box<Answer>> {
    let max = name_bytes_max + 2;
    if pattern.trim().len() <= max {
        return Ok(());
    }
    Err(illegal_name(&InvalidName { field, problem: NameProblem::TooLong { max }, value: String::new() }))
}

fn request(call: &Call, blur: bool) -> Result<(Filter, usize, usize), Box<Answer>> {
    let (data_id, group) = (call.required("dataId")?, call.required("group")?);
    if blur {
        check_pattern(NameField::DataId, data_id, limits::DATA_ID_BYTES_MAX)?;
        check_pattern(NameField::Group, group, limits::GROUP_BYTES_MAX)?;
    } else {
        call.check_names()?;
    }
    let number = |name: &str| -> Result<usize, Box<Answer>> {
        let text = call.required(name)?;
        text.parse().map_err(|_| Box::new(caused(&format!("parameter '{name}' is not a number: {text:?}"))))
    };
    let (page, size) = (number("pageNo")?, number("pageSize")?);
    if page == 0 || size == 0 {
        return Err(Box::new(caused(&format!(
            "serialize page error, dataId={data_id}, group={group};caused: pageNo and pageSize must be greater than zero"
        ))));
    }
    if size > PAGE_SIZE_MAX {
        return Err(Box::new(caused(&format!("pageSize is over {PAGE_SIZE_MAX}"))));
    }
    let tenant = call.params.get("tenant").unwrap_or_default();
    let namespace = names::namespace(tenant).map_err(|err| illegal_name(&err))?;
    let list = |name: &str| -> Vec<String> {
        let text = call.params.get(name).unwrap_or_default();
        text.split(',').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
    };
    let filter = Filter {
        namespace: Some(namespace),
        group: group.trim().to_owned(),
        data_id: data_id.trim().to_owned(),
        blur,
        app_name: call.params.filled("appName").unwrap_or_default().to_owned(),
        tags: list("config_tags"),
        types: if blur { list("types") } else { Vec::new() },
    };
    Ok((filter, page, size))
}
