//! `/v1/cs/configs?search=…`: pages of configurations.
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Answer, caused, failure, illegal_name, json as json_answer},
    call::Call,
    config::summary,
};
use crate::{nacos::names, service::Filter};

/// More on one page is refused: an answer is built in memory.
const PAGE_SIZE_MAX: usize = 10_000;

pub(super) async fn search(api: &Api, call: &Call, blur: bool) -> Answer {
    let (filter, page, size) = match request(call, blur) {
        Ok(request) => request,
        Err(refused) => return *refused,
    };
    let by_tags = !filter.tags.is_empty();
    let listed = match api.services.search(filter, (page - 1).saturating_mul(size), size).await {
        Ok(listed) => listed,
        Err(err) => return failure(&err),
    };
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
    json_answer(&json!({
        "totalCount": listed.total,
        "pageNumber": page,
        "pagesAvailable": listed.total.div_ceil(size),
        "pageItems": items,
    }))
}

fn request(call: &Call, blur: bool) -> Result<(Filter, usize, usize), Box<Answer>> {
    let (data_id, group) = (call.required("dataId")?, call.required("group")?);
    if !blur {
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
