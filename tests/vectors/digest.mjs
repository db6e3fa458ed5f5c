// An independent implementation of the digest (docs/runs.md) that writes the test vectors: node tests/vectors/digest.mjs tests/vectors/digest.json
import {createHash} from 'node:crypto'; import {writeFileSync} from 'node:fs';
const T='t1', R='r1';
const run=(events)=>events.map((e,i)=>({...e}));
function jcs(v){ if(v===null||typeof v!=='object') return JSON.stringify(v);
 if(Array.isArray(v)) return '['+v.map(jcs).join(',')+']';
 return '{'+Object.keys(v).sort().map(k=>JSON.stringify(k)+':'+jcs(v[k])).join(',')+'}'; }
const OUT=new Set(['seq','seq_from','count','digest','timestamp']); const D=new Set(['TEXT_MESSAGE_CONTENT','REASONING_MESSAGE_CONTENT','TOOL_CALL_ARGS']);
function lines(events){ const out=[]; let base=null, text='';
 const flush=()=>{ if(base!==null){ out.push(jcs({...JSON.parse(base),delta:text})); base=null; text='';} };
 for(const e of events){ const k=Object.fromEntries(Object.entries(e).filter(([n])=>!OUT.has(n)));
  if(D.has(k.type)&&typeof k.delta==='string'){ const d=k.delta; delete k.delta; const b=jcs(k); if(b!==base){flush(); base=b;} text+=d; }
  else { flush(); out.push(jcs(k)); } }
 flush(); return out; }
const ids={threadId:T,runId:R};
const RAW=new Map(); // event → how its metadata.v is written in the file
function wire(list){ let seq=0; return list.map(e=>{ const written=e._raw; delete e._raw; const span=e._span||1; delete e._span; const from=seq+1; seq+=span; const w={...e,...ids}; if(span>1) w.seq_from=from; w.seq=seq; if(written) RAW.set(w,written); return w; }); }
function end(ws){ const last=ws[ws.length-1]; last.count=last.seq; const l=lines(ws); last.digest=createHash('sha256').update(l.join('\n'),'utf8').digest('hex'); return l; }
const S=()=>({type:'RUN_STARTED'}), F=()=>({type:'RUN_FINISHED',outcome:{type:'success'}});
const ts=(m='m1')=>({type:'TEXT_MESSAGE_START',messageId:m,role:'assistant'}), tc=(d,m='m1',span)=>({type:'TEXT_MESSAGE_CONTENT',messageId:m,delta:d,...(span?{_span:span}:{})}), te=(m='m1')=>({type:'TEXT_MESSAGE_END',messageId:m});
const cases=[];
function add(name,why,list,tweak){ const ws=wire(list); if(tweak) tweak(ws); const l=end(ws); cases.push({name,why,events:ws,normal_form:l,count:ws[ws.length-1].count,digest:ws[ws.length-1].digest}); }
add('plain','one delta, nothing to join',[S(),ts(),tc('Hello, world'),te(),F()]);
add('deltas','adjacent deltas of one message are one event: same digest as `plain`',[S(),ts(),tc('Hel'),tc('lo, '),tc('world'),te(),F()]);
add('merged','deltas merged on the way carry seq_from: same digest as `plain`',[S(),ts(),tc('Hello, ','m1',2),tc('world'),te(),F()]);
add('empty delta inside','an empty delta joins its neighbours: same digest as `plain`',[S(),ts(),tc(''),tc('Hello, '),tc(''),tc('world'),te(),F()]);
add('empty delta alone','an empty delta without a neighbour stays an event',[S(),ts(),tc(''),te(),F()]);
add('timestamps','`timestamp` is left out at the top: same digest as `plain`',[{...S(),timestamp:1790000000000},ts(),{...tc('Hello, world'),timestamp:1790000000123},te(),F()]);
add('left out only at the top','members named seq, count, digest, timestamp deeper inside stay',[S(),{type:'CUSTOM',name:'shop.count',value:{seq:7,seq_from:6,count:3,digest:'abc',timestamp:1}},ts(),tc('x'),te(),F()]);
add('two messages interleaved','deltas of two messages alternate: not adjacent, so four events',[S(),ts('a'),ts('b'),tc('1','a'),tc('2','b'),tc('3','a'),tc('4','b'),te('a'),te('b'),F()]);
add('a lifecycle event between','a CUSTOM event between two deltas keeps them apart',[S(),ts(),tc('one '),{type:'CUSTOM',name:'narthex.working',value:{silent_s:10}},tc('two'),te(),F()]);
add('differing members','adjacent deltas that differ in another member stay apart',[S(),ts(),{...tc('a'),metadata:{lang:'en'}},tc('b'),tc('c'),te(),F()]);
// Numbers as they stand in the file: JavaScript cannot write them itself.
const raw=(text)=>`@raw:${text}@`;
add('true is not one','deltas whose other members differ in true and 1, or false and 0, stay apart, at every depth',[S(),ts(),{...tc('a'),metadata:{v:true}},{...tc('b'),metadata:{v:1}},{...tc('c'),metadata:{v:[false]}},{...tc('d'),metadata:{v:[0]}},{...tc('e'),metadata:{v:[0,false]}},{...tc('f'),metadata:{v:[false,0]}},te(),F()]);
add('equal as doubles','deltas whose other members are the same double, however it is written, join',[S(),ts(),{...tc('a'),metadata:{v:9007199254740992}},{...tc('b'),metadata:{v:9007199254740992},_raw:'9007199254740993'},{...tc('c'),metadata:{v:1}},{...tc('d'),metadata:{v:1},_raw:'1.0'},{...tc('e'),metadata:{v:1},_raw:'1e0'},{...tc('f'),metadata:{v:0}},{...tc('g'),metadata:{v:0},_raw:'-0.0'},te(),F()]);
add('unicode','astral characters, combining marks (not normalised), right-to-left, line separators',[S(),ts(),tc('😀 e\u0301 é '),tc('שלום \u2028\u2029 𝄞'),te(),F()]);
add('escapes','control characters, quotes, backslash, DEL, slash',[S(),ts(),tc('"\\/\b\f\n\r\t\u0000\u001f\u007f</script>'),te(),F()]);
add('key order','members are sorted by UTF-16 code units, at every depth',[S(),{type:'STATE_SNAPSHOT',snapshot:{'\u20ac':1,'\r':2,'\ufb33':3,'1':4,'\u{1f600}':5,'\u0080':6,'\u00f6':7,a:{z:1,Z:2,'':3}}},ts(),tc('.'),te(),F()]);
add('numbers','as ECMAScript prints doubles: 1.0 is 1, 1e21, 1e-7, -0 is 0',[S(),{type:'STATE_SNAPSHOT',snapshot:[0,-0,1.0,1.5,-1.25,1e21,1e20,123456789012345680000,1e-6,1e-7,0.1,333333333.33333329,1e23,5e-324,1.7976931348623157e308,9007199254740991,-9007199254740991,4.5,2e-3]},{type:'STATE_DELTA',delta:[{op:'replace',path:'/a',value:true},{op:'add',path:'/b',value:null}]},ts(),tc('.'),te(),F()]);
add('tool call','arguments are deltas, start, end and result are not',[S(),{type:'TOOL_CALL_START',toolCallId:'c1',toolCallName:'health'},{type:'TOOL_CALL_ARGS',toolCallId:'c1',delta:'{"dee'},{type:'TOOL_CALL_ARGS',toolCallId:'c1',delta:'p":true}'},{type:'TOOL_CALL_END',toolCallId:'c1'},{type:'TOOL_CALL_RESULT',messageId:'c1r',toolCallId:'c1',content:'{"status":"healthy"}',role:'tool'},ts(),tc('All is well.'),te(),F()]);
add('reasoning','reasoning deltas join like text, and never with text',[S(),{type:'REASONING_START',messageId:'s1'},{type:'REASONING_MESSAGE_START',messageId:'q1',role:'reasoning'},{type:'REASONING_MESSAGE_CONTENT',messageId:'q1',delta:'Let me '},{type:'REASONING_MESSAGE_CONTENT',messageId:'q1',delta:'think.'},{type:'REASONING_MESSAGE_END',messageId:'q1'},{type:'REASONING_END',messageId:'s1'},ts(),tc('Done.'),te(),F()]);
add('same id, two types','a reasoning and a text delta of one messageId do not join',[S(),{type:'REASONING_MESSAGE_START',messageId:'m1',role:'reasoning'},ts(),{type:'REASONING_MESSAGE_CONTENT',messageId:'m1',delta:'a'},tc('a'),{type:'REASONING_MESSAGE_END',messageId:'m1'},te(),F()]);
add('restarted','the void attempt is digested too; the restart is an event like any other',[S(),ts('m1'),tc('first try','m1'),te('m1'),{type:'CUSTOM',name:'narthex.restarted',value:{attempt:2}},ts('m2'),tc('second try','m2'),te('m2'),F()]);
add('steps','steps are events of their own',[S(),{type:'STEP_STARTED',stepName:'plan'},ts(),tc('p'),te(),{type:'STEP_FINISHED',stepName:'plan'},F()]);
add('error','RUN_ERROR is the terminal event; an open message was closed before',[S(),ts(),tc('half an ans'),te(),{type:'RUN_ERROR',message:'The instance that ran the agent went away.',code:'owner_lost'}]);
add('cancelled','outcome cancelled, with a result',[S(),ts(),tc('half'),te(),{type:'RUN_FINISHED',outcome:{type:'cancelled'},result:{cancelledBy:'alice'}}]);
add('interrupt','an approval ends the run; the answer is another run with parentRunId',[S(),ts(),tc('May I?'),te(),{type:'RUN_FINISHED',outcome:{type:'interrupt',interrupts:[{id:'i1',reason:'input_required',message:'Delete it?',responseSchema:{type:'object',properties:{approved:{type:'boolean'}},required:['approved']},expiresAt:'2026-11-23T12:00:00Z'}]}}]);
add('two events','the shortest run',[S(),{type:'RUN_ERROR',message:'The agent returned without producing anything.',code:'agent_silent'}]);
const same=cases.filter(c=>['plain','deltas','merged','empty delta inside','timestamps'].includes(c.name)).map(c=>c.digest);
if(new Set(same).size!==1) throw new Error('not same '+same);
// a lone-surrogate-free check, ascii escapes in the file so that any editor keeps it intact
const text='{\n "description": "Digest of a run (docs/runs.md). `events` is what the wire carried, in order; `normal_form` its lines; digest = SHA-256 of the lines joined by one newline.",\n "cases": [\n'+cases.map(c=>'  '+JSON.stringify({...c,events:c.events.map(e=>RAW.has(e)?{...e,metadata:{v:raw(RAW.get(e))}}:e)}).replace(/"@raw:([^@]*)@"/g,'$1')).join(',\n')+'\n ]\n}\n';
writeFileSync(process.argv[2], text.replace(/[\u007f-\uffff]/g, ch=>'\\u'+ch.charCodeAt(0).toString(16).padStart(4,'0')));
console.log(cases.length);
