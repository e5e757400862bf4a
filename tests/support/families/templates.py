"""Chat templates of the tiny families, shortened from those on the Hub where nothing hangs on it.

Long because a template is data that stays in one piece.
"""

COHERE = """\
{{ bos_token }}\
{%- if messages[0]['role'] == 'system' %}\
{% set preamble = messages[0]['content'] %}{% set messages = messages[1:] %}\
{%- else %}{% set preamble = 'You are a helpful assistant.' %}{% endif -%}
<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble
{% if preamble is string %}{{ preamble }}{% else %}{{ preamble[0]['text'] }}{% endif %}<|END_OF_TURN_TOKEN|>
{%- for message in messages -%}
<|START_OF_TURN_TOKEN|>
{%- if message['role'] == 'user' %}<|USER_TOKEN|>{% else %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}IMAGE{% else %}{{ item['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{%- if message['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>
{%- endfor %}
{%- if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"""

# As on the Hub: content in blocks only, and no end after the last answer.
DEEPSEEK = """\
{%- for message in messages -%}
{%- set role = message['role'] -%}
{{ 'USER' if role == 'user' else 'ASSISTANT' if role == 'assistant' else role.capitalize() }}:
{%- if message['content'][0]['text'] != '' %}{{ ' ' }}{% endif -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' %}<image_placeholder>{% else %}{{ item['text'] | trim }}{% endif -%}
{%- if not loop.last %}{{ '\\n' }}{% endif -%}
{%- endfor -%}
{%- if not loop.last or add_generation_prompt %}{{ '\\n\\n' if role == 'user' else 'END' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""

GEMMA_3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- if messages[0]['content'] is string -%}
{%- set first = messages[0]['content'] + '\\n\\n' -%}
{%- else -%}
{%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- endif -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set first = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- elif message['content'] is iterable -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- else -%}{{ raise_exception('Invalid content type') }}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

# The generation prompt ends with an empty thought, and no answer in a conversation follows one.
GEMMA_4 = """\
{%- macro written(content) -%}
{%- if content is string -%}{{- content | trim -}}
{%- else -%}
{%- for item in content -%}
{%- if item['type'] == 'text' -%}{{- item['text'] | trim -}}
{%- elif item['type'] == 'image' -%}{{- '<|image|>' -}}
{%- elif item['type'] == 'audio' -%}{{- '<|audio|>' -}}
{%- elif item['type'] == 'video' -%}{{- '<|video|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if (enable_thinking is defined and enable_thinking) or messages[0]['role'] == 'system' -%}
{{- '<|turn>system\\n' -}}
{%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}
{%- if messages[0]['role'] == 'system' -%}
{{- written(messages[0]['content']) -}}
{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' + written(message['content']) + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|turn>model\\n' -}}
{%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}"""

GEMMA_3N = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- set messages = messages[1:] -%}
{%- else -%}
{%- set first = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'audio' -%}{{ '<audio_soft_token>' }}
{%- elif item['type'] == 'image' -%}{{ '<image_soft_token>' }}
{%- else -%}{{ item['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

GLM_4V = """\
[gMASK]<sop>
{%- for message in messages %}
{%- if message['role'] == 'system' %}
<|system|>
{{ message['content'] }}
{%- elif message['role'] == 'user' %}
<|user|>{{ '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif item['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>
{%- else %}{{ item['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- else %}
<|assistant|>
{{ message['content'] }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|assistant|>
{% endif %}"""

IDEFICS = """\
{% for message in messages %}{{ message['role'].capitalize() }}\
{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}\
{% for line in message['content'] %}\
{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}\
{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

INTERNVL = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for content in message['content'] %}
{%- if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}
{%- elif content['type'] == 'video' %}{{ '<video>\\n' }}
{%- elif content['type'] == 'text' %}{{ content['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LFM2 = """\
{{- bos_token -}}
{%- set ns = namespace(system_prompt='') -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set ns.system_prompt = messages[0]['content'] -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if ns.system_prompt -%}
{{- '<|im_start|>system\\n' + ns.system_prompt + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is not string -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<image>' -}}
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- else -%}{{- message['content'] -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

LLAMA_3 = """\
{{ bos_token }}
{%- for message in messages -%}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>{{ '\\n\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}<|image|>{% else %}{{ item['text'] }}{% endif %}
{%- endfor %}
{%- endif -%}
<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}"""

VICUNA = """\
{% for message in messages %}\
{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% if message['role'] != 'assistant' %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] + ' ' }}{% endfor %}\
{% else %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}\
{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

VIP_LLAVA = """\
{% for message in messages %}\
{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}\
{% elif message['role'] == 'user' %}{{ '###Human: ' }}\
{% else %}{{ '###' + message['role'].title() + ': ' }}{% endif %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] }}{% endfor %}\
{% endfor %}\
{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"""

LLAVA_MISTRAL = """\
{% for message in messages %}\
{% if message['role'] == 'system' %}\
{{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}\
{% elif message['role'] == 'user' %}{{ '[INST] ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] }}{% endfor %}\
{{ ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
{% endfor %}"""

LLAVA_ONEVISION = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}\
{{ '<video>' }}{% endfor %}\
{% if message['role'] != 'assistant' %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ '\\n' + content['text'] }}{% endfor %}\
{% else %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}\
{% endif %}\
{{ '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# `[/INST]` is all that asks for an answer: `add_generation_prompt` changes nothing.
MISTRAL_3 = """\
{%- set today = strftime_now('%Y-%m-%d') %}
{%- set default_system_message = 'You power an AI assistant. The current date is ' + today + '.' %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- if messages[0]['content'] is string %}
{%- set system_message = messages[0]['content'] %}
{%- else %}
{%- set system_message = messages[0]['content'][0]['text'] %}
{%- endif %}
{%- set loop_messages = messages[1:] %}
{%- else %}
{%- set system_message = default_system_message %}
{%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
{%- if message['role'] == 'user' %}
{{- '[INST]' }}
{%- if message['content'] is string %}{{- message['content'] }}
{%- else %}
{%- for block in message['content'] %}
{%- if block['type'] == 'text' %}{{- block['text'] }}
{%- elif block['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}
{%- else %}{{- raise_exception('Only text and image blocks are supported in message content!') }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '[/INST]' }}
{%- elif message['role'] == 'assistant' %}
{%- if message['content'] is string %}{{- message['content'] + eos_token }}
{%- else %}{{- message['content'][0]['text'] + eos_token }}
{%- endif %}
{%- else %}{{- raise_exception('Only user, system and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}"""

PADDLE_OCR = """\
{{- '<|begin_of_sentence|>' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'User: ' -}}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' -}}{%- endif -%}
{%- endfor -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'Assistant:\\n' -}}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '</s>' -}}
{%- elif message['role'] == 'system' -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] + '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"""

QWEN_2_VL = """\
{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}
{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}
{%- for content in message['content'] %}
{%- if content['type'] == 'image' or 'image' in content or 'image_url' in content %}
{%- set image_count.value = image_count.value + 1 %}
{%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif content['type'] == 'video' or 'video' in content %}
{%- set video_count.value = video_count.value + 1 %}
{%- if add_vision_id %}Video {{ video_count.value }}: {% endif -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in content %}{{ content['text'] }}
{%- endif %}
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN_3_VL = """\
{%- set image_count = namespace(value=0) %}
{%- set video_count = namespace(value=0) %}
{%- macro written(content, seen) %}
{%- if content is string %}{{- content }}
{%- else %}
{%- for item in content %}
{%- if seen and (item.type == 'image' or 'image' in item or 'image_url' in item) %}
{%- set image_count.value = image_count.value + 1 %}
{%- if add_vision_id %}{{- 'Picture ' ~ image_count.value ~ ': ' }}{% endif %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif seen and (item.type == 'video' or 'video' in item) %}
{%- set video_count.value = video_count.value + 1 %}
{%- if add_vision_id %}{{- 'Video ' ~ video_count.value ~ ': ' }}{% endif %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in item %}{{- item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- endmacro %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{{- written(message.content, message.role == 'user') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

# It writes a thought, here an empty one, before the last answer and before no other.
QWEN_3_5 = """\
{%- macro written(content) %}
{%- if content is string %}{{- content }}
{%- elif content is iterable and content is not mapping %}
{%- for item in content %}
{%- if 'image' in item or 'image_url' in item or item.type == 'image' %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'video' in item or item.type == 'video' %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in item %}{{- item.text }}
{%- else %}{{- raise_exception('Unexpected item type in content.') }}
{%- endif %}
{%- endfor %}
{%- else %}{{- raise_exception('Unexpected content type.') }}
{%- endif %}
{%- endmacro %}
{%- set last = namespace(query=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set last.query = loop.index0 %}{% endif %}
{%- endfor %}
{%- if last.query < 0 %}{{- raise_exception('No user query found in messages.') }}{% endif %}
{%- for message in messages %}
{%- set content = written(message.content) | trim %}
{%- if message.role == 'system' and not loop.first %}
{{- raise_exception('System message must be at the beginning.') }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > last.query %}{{- '<think>\\n' + thought | trim + '\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
{{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>\\n' }}
{%- endif %}
{%- endif %}"""

QWEN_2 = """\
{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] if item['type'] == 'image' %}<image>{{ '\\n' }}{% endfor %}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
