package vrouterv1

import (
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestRulesCompile holds that every validation rule compiles and that the state file of the design is valid as it stands.
func TestRulesCompile(t *testing.T) {
	validator, err := protovalidate.New(protovalidate.WithMessages(
		&Resource{}, &ApplyRequest{}, &SyncRequest{}, &ListRequest{}, &WatchRequest{}, &ExplainRequest{},
		&ListFlowsRequest{}, &WatchFlowsRequest{}, &DeleteFlowsRequest{}, &ListDropsRequest{}, &WatchDropsRequest{}, &GetStatusRequest{},
	))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		json string
		want string // substring of the error, empty: valid
	}{
		{`{"name":"pods","virtualNetwork":{"subnets":[{"prefix":"10.244.0.0/24","gateway":"10.244.0.1"},{"prefix":"fd00:244::/64","gateway":"fd00:244::1"}]}}`, ""},
	} {
		r := &Resource{}
		if err := protojson.Unmarshal([]byte(tc.json), r); err != nil {
			t.Fatal(err)
		}
		if err := validator.Validate(r); err != nil {
			t.Errorf("%s: %v", tc.json, err)
		}
	}
}
